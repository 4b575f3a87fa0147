"""The nouns of metaresearch as frozen records; DESIGN.md sections 1 and 4.

Owns: the shape of everything that is stored, sent to a slot or printed as JSON, with units.
Does not own: behaviour (no I/O, no clock, no randomness) and nothing derived that a reader can
compute. What the harness measured and what the researcher claimed never share a field.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from inner_loop.record import Record as Record
from inner_loop.record import content_hash as content_hash
from inner_loop.record import derive_seed as derive_seed
from inner_loop.settings import Answers, Settings, Usage

SCHEMA_VERSION = 1

Clock = Literal["wall", "cpu", "steps"]
ExperimentKind = Literal["baseline", "edit", "rerun", "confirm"]
Status = Literal["keep", "discard", "crash"]
RunState = Literal["waiting", "running", "complete", "failed"]
Role = Literal["entrant", "control", "baseline"]
Shard = Literal["search", "audit", "locked"]
Constant = bool | int | float | str | tuple[int | float, ...]  # of train.py, in ALL_CAPS
CrashCode = Literal[
    "exception",  # train.py raised or exited with a non-zero code
    "syntax",  # train.py does not compile
    "nan",  # the loss or the logits are not finite
    "oom",  # memory limit reached
    "timeout",  # killed at the wall or CPU limit
    "overtime",  # handed over, but later than the budget allows
    "no_result",  # ended without handing its model over
    "bad_logits",  # handed over logits of the wrong shape or type
]


class Instruction(Record):
    """The smallest attributable part of a program: a list item, paragraph, table or fence."""

    id: str
    """`I-` and 8 hex digits; a hash of the normalised text, equal in every program that has it."""
    index: int
    """Position among the program's instructions, from 0."""
    section: str
    """Headings above it, joined by ` / `; empty before the first heading."""
    text: str
    """The instruction's own text, without list markers."""
    start_line: int
    end_line: int
    """First source line, from 0, and one past the last."""


class Program(Record):
    """One program.md; its identity is the hash of its bytes."""

    id: str
    """First 12 hex digits of the sha256 of the submitted bytes."""
    name: str
    """Display name: the folder's or the file's name."""
    text: str
    """The submitted bytes decoded as UTF-8; encoding it again gives the same bytes."""
    instructions: tuple[Instruction, ...] = ()
    """In document order."""


class Submission(Record):
    """A program somebody offered, and what they said about it."""

    id: str
    """`S-` and 8 hex digits of program, author and name."""
    program_id: str
    author: str
    name: str
    note: str = ""
    """The card's one-line description (a claim)."""


class Task(Record):
    """What is optimised: corpus, tokenizer size, context and how much of a shard is scored."""

    name: str
    corpus: str
    """A corpus prepare.py knows, for example `shakespeare`, or the name of a file of texts."""
    corpus_file: str = Field(default="", exclude=True)
    """Where that file is on this machine; stored nowhere, its content's hash is the track's."""
    vocab_size: int = Field(ge=260, le=65535)
    """Tokens in the vocabulary, special tokens included."""
    max_seq_len: int = Field(ge=8, le=65536)
    """Context length in tokens."""
    eval_tokens: int = Field(ge=1)
    """Tokens of the search shard that a stand-alone `evaluate_bpb` scores."""
    scored_tokens: int = Field(ge=1)
    """Tokens of a shard that the scorer scores."""
    start: dict[str, Constant] = Field(default={})
    """Literals of the starting train.py that differ from the shipped file, by name."""

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if min(self.eval_tokens, self.scored_tokens) < self.max_seq_len:
            raise ValueError("eval_tokens and scored_tokens must be at least max_seq_len")
        return self


class Limits(Record):
    """Caps on one experiment, enforced from outside the run box."""

    startup_seconds: float = Field(gt=0)
    """Cap on seconds before the first data request (CPU seconds on a `cpu` clock, else wall)."""
    scoring_seconds: float = Field(gt=0)
    """Cap on seconds from hand-over to the last score (same clock as start-up); not charged."""
    wall_seconds: float = Field(gt=0)
    """Wall seconds after which the whole process tree is killed."""
    overtime_fraction: float = Field(ge=0, le=1)
    """How much later than the budget a hand-over may come and still be scored."""
    memory_gb: float = Field(gt=0)
    """Resident memory of the process tree, GiB."""
    file_mb: float = Field(gt=0)
    """Largest file the box may write, MiB."""
    processes: int = Field(ge=1)
    """Processes and threads of the box."""


class Budget(Record):
    """Caps on one run; whichever is reached first ends it."""

    experiments: int = Field(ge=0)
    """Charged experiments (edits and reruns; baselines and confirmations are the harness's)."""
    gpu_seconds: float | None = Field(default=None, gt=0)
    """Seconds of the track's clock between data release and hand-over, summed; None = no cap."""
    tokens: int | None = Field(default=None, gt=0)
    """Model tokens, in and out."""
    usd: float | None = Field(default=None, gt=0)
    """Model cost in US dollars."""


class Spent(Record):
    """What a run has used so far; same fields and units as `Budget`, None = not known."""

    experiments: int = 0
    gpu_seconds: float = 0.0
    tokens: int | None = 0
    usd: float | None = 0.0


class Track(Record):
    """What results are comparable within; its hash is the fingerprint."""

    name: str
    task: Task
    start: dict[str, Constant] = Field(default={})
    """Literals of the starting train.py on this track; they come after the task's."""
    device: Literal["cpu", "cuda", "mps"]
    """Device the run box shows to train.py."""
    clock: Clock
    """What `time_budget` counts: wall seconds, CPU seconds of the process tree, or steps."""
    time_budget: float = Field(gt=0)
    """Budget of one experiment in units of `clock`."""
    limits: Limits
    researcher: str
    """Registered researcher of the entrants, for example `catalog`."""
    model: str | None = None
    """Model name for researchers that are language models."""
    settings: Settings = Settings()
    """How the researcher is asked."""
    protocol: str = ""
    """Filled in at run time: hash of the SDK and the templates that a model is asked with."""
    budget: Budget
    """Budget of one run."""
    baselines: int = Field(ge=1)
    """Unchanged trainings per block that define its baseline."""
    confirm_seeds: int = Field(ge=1)
    """Fresh seeds on which a run's final train.py is retrained."""
    hardware: str = ""
    """Filled in at run time: processor or GPU, and the torch version."""
    corpus_sha256: str = ""
    """Filled in at run time: hash of the corpus file the shards were made from."""
    base_commit: str = ""
    """Filled in at run time: commit of the starting train.py, prepare.py and task.json."""

    @property
    def opening_baselines(self) -> int:
        """How many of a block's baselines are trained before its runs; the rest close the block."""
        return (self.baselines + 1) // 2

    @property
    def fingerprint(self) -> str:
        """Hash of every stored field: results with different fingerprints are never pooled."""
        return content_hash(self.model_dump(mode="json"))


class Edit(Record):
    """One SEARCH/REPLACE block; the searched text occurs exactly once in train.py."""

    search: str
    replace: str


class Move(Record):
    """A researcher's answer, written to the ledger before it has any effect."""

    kind: Literal["edit", "rerun", "return", "unusable", "failed", "close"]
    """`unusable`: a reply that gave no move. `failed`: no reply, and not the program's fault.
    `close`: only its verdict on the last experiment counts."""
    edits: tuple[Edit, ...] = ()
    """For `edit`: applied in order."""
    commit: str | None = None
    """For `rerun` and `return`: the commit of this run to train again or to go back to."""
    description: str = ""
    """One line, the researcher's claim; what results.tsv shows."""
    hypothesis: str = ""
    """Why it should help, written before the result is known."""
    cites: tuple[str, ...] = Field(default=(), max_length=3)
    """Instruction ids that motivated it, written before the result is known."""
    categories: tuple[str, ...] = ()
    """What kinds of change the researcher says this is."""
    verdict: Literal["keep", "discard"] | None = None
    """On the previous experiment; None = upstream's rule (keep if lower)."""
    notes: str | None = None
    """The researcher's notes file from now on; None = as it was."""
    usage: Usage = Usage()
    """What the move cost."""
    repaired: int = 0
    """Replies that could not be applied and were sent back with the reason."""
    continued: int = 0
    """Refusals, stops and questions that were met with the standard continuation."""
    untrusted: bool = False
    """Whether it comes from an agent that ran without a box."""


class Claims(Record):
    """What train.py printed about itself. Shown beside the measurement, never used as one."""

    val_bpb: float | None = None
    num_steps: int | None = None
    num_params_M: float | None = None
    peak_vram_mb: float | None = None
    training_seconds: float | None = None


class Measured(Record):
    """What the harness measured of one training; the result of a job."""

    search_bpb: float | None = None
    """Bits per byte on the search shard; None after a crash. The number a researcher sees."""
    audit_bpb: float | None = None
    """Bits per byte on the audit shard; baselines and confirmations only. Never shown in a run."""
    crash: CrashCode | None = None
    """Why there is no number."""
    error: str = ""
    """Last lines of the box's output after a crash, for people and researchers."""
    startup_seconds: float = 0.0
    """Wall seconds from spawn to data release."""
    clock_seconds: float = 0.0
    """Seconds of the track's clock from data release to hand-over (CPU seconds for `steps`)."""
    wall_seconds: float = 0.0
    """Wall seconds from spawn to the end of scoring."""
    memory_gb: float = 0.0
    """Peak resident memory of the process tree, GiB."""
    trust: Literal["boxed", "untrusted"] = "untrusted"
    """`boxed` only when the run box isolates files and network; this version's does not."""
    claims: Claims = Claims()
    """The box's own words."""


class Experiment(Record):
    """One training of one commit: the measurement row joined with its verdict."""

    run_id: str
    index: int
    """Position in its run, from 1 for charged experiments; confirmations follow."""
    kind: ExperimentKind
    commit: str
    tree: str
    """git tree of the commit: equal trees are equal code."""
    parent_commit: str
    seed: int
    status: Status | None = None
    """None until the verdict row is written (confirmations and baselines have none)."""
    reason: str = ""
    """Why this status, in a few words."""
    description: str = ""
    """The researcher's one line (a claim)."""
    cites: tuple[str, ...] = ()
    """Instruction ids cited by the move (a claim)."""
    categories: tuple[str, ...] = ()
    """Kinds of change named by the move (a claim)."""
    measured: Measured
    started_at: str = ""
    """UTC ISO time."""


class Run(Record):
    """One researcher under one program from the base commit until its budget is spent."""

    id: str
    tournament_id: str
    program_id: str | None
    """None for a block's baselines."""
    program_name: str
    role: Role
    replicate: int
    """Block number, from 0: runs of the same block share baselines."""
    seed: int
    state: RunState = "waiting"
    exit_reason: str = ""
    branch: str
    """git branch in the tournament repository."""
    tip: str = ""
    """Commit at the end of the branch."""
    spent: Spent = Spent()
    started_at: str = ""
    ended_at: str = ""


class Entrant(Record):
    """A program in a tournament, and whether it competes or is a control."""

    program_id: str
    name: str
    role: Role


class Tournament(Record):
    """One scheduled event: entrants x replicates on one track at equal budget."""

    id: str
    """`T-` and 8 hex digits of the plan: the same plan is the same tournament."""
    track: Track
    entrants: tuple[Entrant, ...]
    replicates: int = Field(ge=1)
    seed: int


class Standing(Record):
    """One row of a leaderboard. Gains are in mbpb (0.001 bits per byte); higher is better."""

    rank: int
    """1 + number of programs that are better beyond doubt; programs may share a rank."""
    program_id: str
    name: str
    role: Role
    n: int
    """Finished runs with a final score."""
    mean_gain: float | None
    """Mean of baseline minus final on the audit shard, mbpb."""
    ci_low: float | None
    """Lower end of the 95% interval, mbpb; None where the data give no spread."""
    ci_high: float | None
    keeps: int
    experiments: int
    crashes: int
    gpu_seconds: float
    """Seconds of the track's clock spent by its runs."""


class Leaderboard(Record):
    """All standings of one tournament, with what is needed to read them."""

    schema_version: int = SCHEMA_VERSION
    tournament: Tournament
    standings: tuple[Standing, ...]
    baseline_bpb: float | None
    """Mean baseline on the audit shard over all blocks."""
    baseline_sd: float | None
    """Spread (sd) of the baselines within blocks, mbpb: the noise floor of one training."""
    run_sd: float | None
    """Pooled spread (sd) of gains between runs of the same program, mbpb."""
    finished_runs: int
    planned_runs: int


class RunDetail(Record):
    """One run with all its experiments, as `show RUN --json` prints it."""

    schema_version: int = SCHEMA_VERSION
    run: Run
    experiments: tuple[Experiment, ...]
    baseline_search_bpb: float | None
    """What the run started from: mean of its block's opening baselines on the search shard."""
    gain: float | None
    """Baseline minus final on the audit shard, mbpb; None until confirmed."""
    answers: Answers = Answers()


class ExperimentDetail(Record):
    """One experiment with its diff, as `show RUN --experiment N --json` prints it."""

    schema_version: int = SCHEMA_VERSION
    experiment: Experiment
    move: Move | None
    diff: str
    """Unified diff of train.py against the parent commit."""
