"""A master that is not Backbone's code: the stock client pika, and nothing else.

Reads one JSON command a line on stdin, writes one JSON event a line on stdout:

  < {"publish": 7, "key": "slaves", "hex": "7b7d", "repeat": 1}
  > {"event": "published", "number": 7, "routed": true, "at": 12.5}
  > {"event": "status", "at": 12.6, "key": "master", "user": "guest", "text": "{...}"}
  > {"event": "ready"}                                 at each (re)connection

`at` is a monotonic clock, in seconds, the same for all events. A body is "hex", "repeat" times over.
Ends with stdin.
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
# The connection to wake when there is a command.
current = None


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def read_commands():
    for line in sys.stdin:
        commands.put(json.loads(line))
        try:
            current.add_callback_threadsafe(lambda: None)
        except (AttributeError, errors.AMQPError):
            pass  # Not connected: it is published once we are.
    os._exit(0)


def open_channel(connection):
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, "direct", durable=True)
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, EXCHANGE, "master")
    channel.basic_consume(QUEUE, on_status)
    # basic_publish then waits for the broker's word, and raises if nobody's queue got the message.
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
            # Left in the queue until it is done, for the next connection.
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
