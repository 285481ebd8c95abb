"""What befalls a fleet: kill -9, pauses and wrong clocks, by a seed."""
import dataclasses
import random
import time

# Of 20 kills; PostgreSQL and SeaweedFS are one process each, on which everything hangs.
DECK = ["worker"] * 12 + ["api"] * 4 + ["postgres"] * 2 + ["s3"] * 2
PAUSES = ["worker"] * 6 + ["api", "postgres", "s3"]
# Seconds from one kill to the next, until what was killed is started again, and of a pause beyond the lease.
BETWEEN, DOWN, BEYOND_LEASE = (1.5, 4.0), (0.1, 1.2), (0.5, 2.0)
# Of pauses of the others: shorter than what clients and processes wait for.
BROWN_OUT = (1.0, 3.0)
KILLS_PER_PAUSE = 2
# What a worker's clock is set to; the lease is a few seconds. Object stores refuse requests that were signed by a clock which
# is a quarter of an hour off.
CLOCKS = ["", "+12m", "-12m", "+20s", "-20s", "+0 x1.5"]
# A process that ends by itself says why with one of these: what it needs was away as it began.
MAY_END = ("STORE_UNAVAILABLE", "S3_UNAVAILABLE", "S3_TIMEOUT", "UNAVAILABLE", "DEADLINE")
RESTART_SECONDS = 0.5


@dataclasses.dataclass
class Toll:
    kills: dict = dataclasses.field(default_factory=lambda: dict.fromkeys(sorted(set(DECK)), 0))
    pauses: dict = dataclasses.field(default_factory=lambda: dict.fromkeys(sorted(set(PAUSES)), 0))
    clocks: dict = dataclasses.field(default_factory=dict)
    gave_up: int = 0  # processes that ended by themselves, since what they need was away

    def total(self):
        return sum(self.kills.values())


class Killer:
    """Kills so many. Call `step` often, from the thread that is to live as long as the processes."""

    def __init__(self, fleet, kills, seed, lease_seconds, say):
        self.fleet, self.kills, self.lease, self.say = fleet, kills, lease_seconds, say
        self.random = random.Random(seed)
        self.toll = Toll()
        self.deck, self.due, self.next = [], [], time.monotonic() + self.random.uniform(*BETWEEN)
        self.since_pause = 0

    def named(self, kind):
        if kind == "postgres":
            return [self.fleet.postgres]
        return [self.fleet.weed] if kind == "s3" else self.fleet.of(kind)

    def start(self, process):
        """With a clock of its own, if it is a worker."""
        if getattr(process, "role", "") != "worker":
            return process.start()
        clock = self.random.choice(CLOCKS)
        self.toll.clocks[clock] = self.toll.clocks.get(clock, 0) + 1
        return process.start(clock)

    def step(self):
        now = time.monotonic()
        for entry in [entry for entry in self.due if entry[0] <= now]:
            self.due.remove(entry)
            entry[2]()
        self.supervise()
        if now >= self.next and self.toll.total() < self.kills:
            self.next = now + self.random.uniform(*BETWEEN)
            self.strike()

    def strike(self):
        if not self.deck:
            self.deck = random.Random(self.random.random()).sample(DECK, len(DECK))
        kind = self.deck.pop()
        # Of several processes one is hit; one that is down already is not.
        alive = [one for one in self.named(kind) if one.running()]
        if alive:
            self.kill(kind, self.random.choice(alive))
        else:
            self.deck.insert(0, kind)
        self.since_pause += 1
        if self.since_pause >= KILLS_PER_PAUSE:
            self.since_pause = 0
            self.pause(self.random.choice(PAUSES))

    def kill(self, kind, process):
        self.cancel(process)
        process.kill()
        self.toll.kills[kind] += 1
        self.say(f"kill {self.toll.total()}: {process.name}")
        self.later(self.random.uniform(*DOWN), process, lambda: self.start(process))

    def pause(self, kind):
        free = [one for one in self.named(kind) if one.running() and all(entry[1] is not one for entry in self.due)]
        if not free:
            return
        process = self.random.choice(free)
        seconds = self.lease + self.random.uniform(*BEYOND_LEASE) if kind == "worker" else self.random.uniform(*BROWN_OUT)
        process.pause()
        self.toll.pauses[kind] += 1
        self.say(f"pause of {seconds:.1f} s: {process.name}")
        self.later(seconds, process, process.resume)

    def later(self, seconds, process, action):
        self.due.append((time.monotonic() + seconds, process, action))

    def cancel(self, process):
        self.due = [entry for entry in self.due if entry[1] is not process]

    def supervise(self):
        """Starts again what ended by itself, as whoever runs a fleet does. Only one reason for that is right."""
        for process in [self.fleet.postgres, self.fleet.weed, *self.fleet.processes]:
            if process.running() or any(entry[1] is process for entry in self.due):
                continue
            code, tail = process.process.returncode, process.tail()
            if process not in self.fleet.processes or code < 0 or not any(reason in tail for reason in MAY_END):
                raise AssertionError(f"{process.name} ended with {code} and nobody had killed it:\n{tail}")
            self.toll.gave_up += 1
            self.later(RESTART_SECONDS, process, lambda process=process: self.start(process))

    def calm(self):
        """Ends pauses, and starts what is down."""
        while self.due:
            entry = self.due.pop()
            entry[2]()
        # Those that begin while what they need comes up.
        for process in self.fleet.processes:
            end = time.monotonic() + 60
            while not process.is_ready():
                assert time.monotonic() < end, f"{process.name} does not get ready:\n{process.tail()}"
                self.supervise()
                for entry in [entry for entry in self.due if entry[0] <= time.monotonic()]:
                    self.due.remove(entry)
                    entry[2]()
                time.sleep(0.1)
