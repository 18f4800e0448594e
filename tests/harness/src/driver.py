"""A master that does not use Backbone's code, only the client library pika.

Reads one JSON command per line on stdin, writes one JSON event per line on stdout:

  < {"publish": 7, "key": "slaves", "hex": "7b7d", "repeat": 1}
  > {"event": "published", "number": 7, "routed": true, "at": 12.5}
  > {"event": "status", "at": 12.6, "key": "master", "user": "guest", "text": "{...}"}
  > {"event": "ready"}                                 at each (re)connection

`at` is the time of a monotonic clock, in seconds. A body is "hex", repeated "repeat" times.
Ends when stdin ends.
"""

import json
import os
import queue
import sys
import threading
import time

import pika
import pika.exceptions as errors

EXCHANGE = "pf9-bbone"
QUEUE = "driver-master"
commands = queue.Queue()
# The connection to wake up when there is a command.
current = None


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def read_commands():
    for line in sys.stdin:
        commands.put(json.loads(line))
        try:
            current.add_callback_threadsafe(lambda: None)
        except (AttributeError, errors.AMQPError):
            pass  # Not connected: the command is executed after the next connect.
    os._exit(0)


def open_channel(connection):
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, "direct", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, EXCHANGE, "master")
    channel.basic_consume(QUEUE, on_status)
    # With this, basic_publish waits for the broker's confirm, and raises if the message was not routed.
    channel.confirm_delivery()
    return channel


def on_status(channel, method, properties, body):
    text = body.decode("utf-8", "backslashreplace")
    emit("status", at=time.monotonic(), key=method.routing_key, user=properties.user_id, text=text)
    channel.basic_ack(method.delivery_tag)


def publish(channel, command):
    body = bytes.fromhex(command["hex"]) * command["repeat"]
    at = time.monotonic()
    try:
        channel.basic_publish(EXCHANGE, command["key"], body, mandatory=True)
        routed = True
    except errors.UnroutableError:
        routed = False
    emit("published", number=command["publish"], routed=routed, at=at)


def serve(connection):
    channel = open_channel(connection)
    emit("ready")
    while True:
        while not commands.empty():
            # Kept in the queue until it is done, so that the next connection can repeat it.
            publish(channel, commands.queue[0])
            commands.get()
        connection.process_data_events(time_limit=1)


parameters = pika.URLParameters(sys.argv[1])
threading.Thread(target=read_commands, daemon=True).start()
while True:
    try:
        current = pika.BlockingConnection(parameters)
        serve(current)
    except (errors.AMQPError, OSError) as error:
        print(f"driver: {error!r}", file=sys.stderr, flush=True)
        time.sleep(0.2)
