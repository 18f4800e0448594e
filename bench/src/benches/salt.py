"""Measures Salt: a client that keeps running sends commands to one minion, as code on a master does.

Arguments: folder of the configuration, number of rounds, packages of this machine. Prints one JSON object.
"""

import json
import sys
import time

import salt.client
import salt.config
import salt.exceptions

folder, rounds, packages = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def connect():
    return salt.client.LocalClient(mopts=salt.config.client_config(folder + "/master"))


def answers():
    # A client reads the master's key once. The master creates the key when it starts.
    try:
        return connect().cmd("*", "test.ping", timeout=2) == {"bench": True}
    except salt.exceptions.SaltException:
        time.sleep(0.5)
        return False


until = time.time() + 120
while not answers():
    if time.time() > until:
        sys.exit("the minion does not answer")
client = connect()


def timed(*arguments):
    started = time.perf_counter()
    answer = client.cmd("*", *arguments, timeout=60)
    return (time.perf_counter() - started) * 1000, answer["bench"]


pings = [timed("test.ping")[0] for _ in range(rounds)]
states = []
for _ in range(max(3, rounds // 6)):
    took, answer = timed("state.single", ["pkg.installed", "name=bench", "pkgs=" + json.dumps(packages)])
    (result,) = answer.values()
    if not result["result"] or result["changes"]:
        sys.exit("the state has changed something, or failed: %s" % answer)
    states.append(took)
print("measured " + json.dumps({"pings": pings, "states": states}), flush=True)
