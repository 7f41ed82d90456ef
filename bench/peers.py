# SPDX-License-Identifier: MIT
"""CPython's threading and multiprocessing as contenders: a server of bench/common.h's protocol.

Kept small: forkserver's and spawn's workers import this file, and pay for what it imports."""
import os
import signal
import sys
import threading
import time
import multiprocessing


def nothing():
    pass


def park(server):
    os.kill(server, signal.SIGRTMIN)
    time.sleep(1000)


def start_join(make):
    worker = make(target=nothing)
    worker.start()
    worker.join()
    if getattr(worker, "exitcode", 0) != 0:
        raise RuntimeError("exit code %r" % worker.exitcode)


def loop(make, n):
    start_join(make)
    begin = time.perf_counter_ns()
    for _ in range(n):
        start_join(make)
    return [(time.perf_counter_ns() - begin) / n]


class Parked:
    """Idle threads or processes, for bench_memory."""

    def __init__(self):
        self.workers = []
        self.gate = threading.Event()

    def warm(self, kind, make, n):
        start_join(make)
        return []

    def park(self, kind, make, n):
        if kind == "thread":
            self.workers = [make(target=self.gate.wait) for _ in range(n)]
            for w in self.workers:
                w.start()
            return []
        begun = {signal.SIGRTMIN}
        signal.pthread_sigmask(signal.SIG_BLOCK, begun)
        self.workers = [make(target=park, args=(os.getpid(),)) for _ in range(n)]
        for w in self.workers:
            w.start()
        for _ in self.workers:
            if signal.sigtimedwait(begun, 30) is None:
                raise RuntimeError("a process has not begun")
        return [w.pid for w in self.workers]

    def release(self, kind, make, n):
        self.gate.set()
        for w in self.workers:
            if kind != "thread":
                w.kill()
            w.join()
            if kind != "thread" and w.exitcode != -9:
                raise RuntimeError("exit code %r" % w.exitcode)
        return []


def answer(parked, request, n):
    kind, _, verb = request.partition(".")
    if kind == "thread":
        make = threading.Thread
    else:
        make = multiprocessing.get_context(kind).Process
    if not verb:
        return loop(make, n)
    return getattr(parked, verb)(kind, make, n)


def serve(answer):
    for line in iter(sys.stdin.readline, ""):
        if line == "quit\n":
            break
        try:
            request, n = line.split()
            figures = answer(request, int(n))
            print("ok", *figures, flush=True)
        except Exception as e:
            print("error", type(e).__name__, str(e).replace("\n", " "), flush=True)
            raise


if __name__ == "__main__":
    parked = Parked()
    serve(lambda request, n: answer(parked, request, n))
