# SPDX-License-Identifier: MIT
"""CPython's multiprocessing between two processes, for bench_message and bench_payload."""
import multiprocessing
import time
from multiprocessing import shared_memory

import peers

SMALL, LARGE, MANY = 64, 65536, 8
LARGE_SHARE, MANY_SHARE, HOT_SHARE, ASLEEP_SHARE = 32, 2, 100, 1000
PAUSE_NS = 100000
NAN = float("nan")

now = time.perf_counter_ns  # the same in all processes: CLOCK_MONOTONIC


class Queues:
    """Two queues: what side 0 gets, and what side 1 gets."""
    many = True

    def __init__(self):
        self.to = [multiprocessing.Queue(4096), multiprocessing.Queue(4096)]

    def put(self, side, message):
        self.to[1 - side].put(message)

    def get(self, side):
        return self.to[side].get()


class Pipes:
    many = False

    def __init__(self):
        self.end = multiprocessing.Pipe()

    def put(self, side, message):
        self.end[side].send_bytes(message)

    def get(self, side):
        return self.end[side].recv_bytes()


def numbered(number, size):
    return number.to_bytes(8, "little") * (size // 8)


def check(message, number, size):
    if len(message) != size or int.from_bytes(message[:8], "little") != number or message[-8:] != message[:8]:
        raise RuntimeError("another message came")


class Child:
    """A process that must end well."""

    def __init__(self, target, *args):
        self.process = multiprocessing.get_context("fork").Process(target=target, args=args, daemon=True)
        self.process.start()

    def end(self):
        self.process.join()
        if self.process.exitcode != 0:
            raise RuntimeError("exit code %r" % self.process.exitcode)


def send_all(channel, size, count):
    for i in range(count):
        channel.put(0, numbered(i, size))


def rate(channel, size, n):
    warm = n // 10
    child = Child(send_all, channel, size, warm + n)
    for i in range(warm):
        check(channel.get(1), i, size)
    begin = now()
    for i in range(warm, warm + n):
        check(channel.get(1), i, size)
    ns = now() - begin
    child.end()
    return n * 1e9 / ns


def receive_many(channel, count):
    for _ in range(count):
        if len(channel.get(1)) != SMALL:
            raise RuntimeError("another message came")


def rate_by_many(channel, n):
    each = n // MANY
    begin = now()
    children = [Child(send_all, channel, SMALL, each) for _ in range(MANY)]
    children += [Child(receive_many, channel, each) for _ in range(MANY)]
    for child in children:
        child.end()
    return each * MANY * 1e9 / (now() - begin)


def compute(ns):
    end = now() + ns
    while now() < end:
        pass


def echo(channel, n, pause):
    for i in range(n):
        message = channel.get(1)
        if pause:
            compute(pause)
        channel.put(1, message)


def round_trip(channel, n, pause):
    warm = 20
    child = Child(echo, channel, warm + n, pause)
    for i in range(warm + n):
        if i == warm:
            begin = now()
        channel.put(0, numbered(i, SMALL))
        check(channel.get(0), i, SMALL)
        if pause:
            compute(pause)
    ns = now() - begin
    child.end()
    return ns / n - 2 * pause


def messages(make, n):
    return [rate(make(), SMALL, n) / 1e6,
            rate(make(), LARGE, n // LARGE_SHARE) / 1e3,
            rate_by_many(make(), n // MANY_SHARE) / 1e6 if make.many else NAN,
            round_trip(make(), n // HOT_SHARE, 0),
            round_trip(make(), max(n // ASLEEP_SHARE, 10), PAUSE_NS)]


def acknowledge(channel, n, size):
    for i in range(n):
        message = channel.get(1)
        got = now()
        check_payload(message, i, size)
        channel.put(1, got.to_bytes(8, "little"))


def check_payload(message, number, size):
    if len(message) != size or message[0] != number % 256 or message[-1] != number % 256:
        raise RuntimeError("another payload came")


def payload_by(channel, size, n):
    """ms until the other process has it."""
    child = Child(acknowledge, channel, n, size)
    took = []
    for i in range(n):
        payload = bytes([i % 256]) * size
        begin = now()
        channel.put(0, payload)
        took.append((int.from_bytes(channel.get(0), "little") - begin) / 1e6)
    child.end()
    return sorted(took)[n // 2]


def copy_out(channel, block, n, size):
    for i in range(n):
        channel.get(1)
        message = bytes(block.buf[:size])
        got = now()
        check_payload(message, i, size)
        channel.put(1, got.to_bytes(8, "little"))


def payload_shared(size, n):
    channel = Queues()
    block = shared_memory.SharedMemory(create=True, size=size)
    try:
        child = Child(copy_out, channel, block, n, size)
        took = []
        for i in range(n):
            payload = bytes([i % 256]) * size
            begin = now()
            block.buf[:size] = payload
            channel.put(0, b"there")
            took.append((int.from_bytes(channel.get(0), "little") - begin) / 1e6)
        child.end()
        return sorted(took)[n // 2]
    finally:
        block.close()
        block.unlink()


LARGE_PAYLOAD, SMALL_PAYLOAD = 256 << 20, 1 << 20


def answer(request, n):
    if request == "queue":
        return messages(Queues, n)
    if request == "pipe":
        return messages(Pipes, n)
    by = {"payload-queue": lambda size, n: payload_by(Queues(), size, n),
          "payload-pipe": lambda size, n: payload_by(Pipes(), size, n),
          "payload-shared": payload_shared}[request]
    return [by(LARGE_PAYLOAD, n), by(SMALL_PAYLOAD, 20 * n)]


if __name__ == "__main__":
    peers.serve(answer)
