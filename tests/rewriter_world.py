"""A planted world for the rewriter: sentences with known effects, programs, noisy runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from inner_loop.program import parse_program
from inner_loop.proposal import Evidence
from inner_loop.records import Program
from outer_loop.rewriter.offline import consider, differences

RUN_SD = 4.3  # mbpb, a three-hour run
SENTENCES = (
    "Begin with the learning rate of the embeddings.",
    "Double the batch whenever the loss is noisy.",
    "Try wider matrices in place of deeper ones.",
    "Spend every third experiment on the schedule.",
    "Combine ideas that each failed narrowly.",
    "Take big steps while the budget is fresh.",
    "Write a hypothesis of one sentence.",
    "Look at the loss curve of the last run.",
    "Question the activation function.",
    "Question where the norms stand.",
    "Use fewer heads in small models.",
    "Remove what does not pay.",
    "Repeat every surprising win on a fresh start.",
    "Leave a knob alone after two losses.",
    "Prefer ideas that cost no time per step.",
    "Revisit weight decay in the second half.",
)


def program_of(sentences: Collection[str], name: str = "planted") -> Program:
    """A program with a contract line, a gate line and these strategies in one list."""
    lines = [f"- {sentence}" for sentence in SENTENCES if sentence in sentences]
    text = (
        "# Planted\n\nMinimise val_bpb by editing train.py.\n\n## Strategy\n\n"
        + "\n".join(lines)
        + "\n\n## The end\n\nNever stop before the budget is spent.\n"
    )
    return parse_program(text.encode(), name)


@dataclass
class World:
    """True effects in mbpb, and measurements of programs."""

    rng: Random

    def __post_init__(self) -> None:
        draw = self.rng
        self.effect = {s: draw.gauss(0, 1.5) if draw.random() < 0.6 else 0.0 for s in SENTENCES}
        self.rows: list[Evidence] = []

    def value(self, program: Program) -> float:
        """What the program truly gains."""
        return sum(self.effect.get(unit.text, 0.0) for unit in program.instructions)

    def run(self, programs: Sequence[Program], replicates: int) -> None:
        """Each program once in each of so many new blocks."""
        for _ in range(replicates):
            block = f"block {len(self.rows)}"
            shift = self.rng.gauss(0, 3)
            for program in programs:
                gain = self.value(program) + shift + self.rng.gauss(0, RUN_SD)
                number = str(len(self.rows))
                row = Evidence(program_id=program.id, block=block, gain=gain, run_id=number)
                self.rows.append(row)


def start(rng: Random) -> list[Program]:
    """Four programs, each with a random half of the sentences."""
    return [program_of(rng.sample(SENTENCES, 8), f"start-{i}") for i in range(4)]


def best(pool: Sequence[Program], world: World) -> Program:
    """The program with the highest posterior mean."""
    margins = differences(pool, world.rows, pool[0].id)
    return max(pool, key=lambda program: margins[program.id].mean)


def recombine(seed: int, rounds: int, challengers: int, replicates: int) -> list[float]:
    """True value of the champion after each round, from the offline rewriter's challengers."""
    world = World(Random(seed))
    rng = Random(f"rewriter {seed}")
    pool = start(Random(f"start {seed}"))
    world.run(pool, replicates)
    champion = best(pool, world)
    values = [world.value(champion)]
    for _ in range(rounds):
        outcome = consider(pool, world.rows, champion.id, [], rng, challengers)
        new = [parse_program(p.text.encode(), p.id) for p in outcome.proposals]
        world.run([champion, *new], replicates)
        pool += new
        champion = best(pool, world)
        values.append(world.value(champion))
    return values


def one_edit(seed: int, rounds: int, challengers: int, replicates: int) -> list[float]:
    """The same with one random change per challenger, judged by its own file's runs."""
    world = World(Random(seed))
    rng = Random(f"one edit {seed}")
    field = start(Random(f"start {seed}"))
    world.run(field, replicates)
    champion = max(field, key=lambda p: _margin(world, p))
    values = [world.value(champion)]
    for _ in range(rounds):
        own = {unit.text for unit in champion.instructions}
        toggled = rng.sample(SENTENCES, challengers)
        new = [program_of(own ^ {sentence}) for sentence in toggled]
        world.run([champion, *new], replicates)
        field += new
        # a child's prior is its parent: half of a new file's difference is believed
        champion = max([champion, *new], key=lambda p: _margin(world, p))
        values.append(world.value(champion))
    return values


def _margin(world: World, program: Program) -> float:
    """Mean gain minus the mean of the same blocks."""
    blocks: dict[str | int, list[float]] = {}
    for row in world.rows:
        blocks.setdefault(row.block, []).append(row.gain)
    own = [r.gain - fmean(blocks[r.block]) for r in world.rows if r.program_id == program.id]
    return fmean(own)
