"""The ledger: append-only facts in one SQL database; DESIGN.md section 4.

Owns: the schema, durability (SQLite in WAL mode, synchronous=FULL; any SQLAlchemy URL works) and
the join of a measurement with its verdict. Rows are appended; only a run's state is updated.
Does not own: anything derived (gains, ranks, curves), who may write (the tournament driver alone),
or the git objects the rows point to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from inner_loop.errors import UserError, unknown
from inner_loop.proposal import Proposal
from inner_loop.records import (
    SCHEMA_VERSION,
    Experiment,
    Move,
    Run,
    Spent,
    Status,
    Submission,
    Tournament,
)
from inner_loop.settings import Usage

_schema = sa.MetaData()
_meta = sa.Table("meta", _schema, sa.Column("schema_version", sa.Integer, primary_key=True))
_programs = sa.Table(
    "programs",
    _schema,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_submissions = sa.Table(
    "submissions",
    _schema,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("program_id", sa.ForeignKey("programs.id"), nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
_tournaments = sa.Table(
    "tournaments",
    _schema,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, unique=True, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
_runs = sa.Table(
    "runs",
    _schema,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tournament_id", sa.ForeignKey("tournaments.id"), nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("exit_reason", sa.String, nullable=False, default=""),
    sa.Column("tip", sa.String, nullable=False, default=""),
    sa.Column("started_at", sa.String, nullable=False, default=""),
    sa.Column("ended_at", sa.String, nullable=False, default=""),
)
_moves = sa.Table(
    "moves",
    _schema,
    sa.Column("run_id", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
_experiments = sa.Table(
    "experiments",
    _schema,
    sa.Column("run_id", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("move_number", sa.Integer),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
_verdicts = sa.Table(
    "verdicts",
    _schema,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.ForeignKeyConstraint(["run_id", "index"], ["experiments.run_id", "experiments.index"]),
)


_rounds = sa.Table(
    "rounds",
    _schema,
    sa.Column("tournament_id", sa.ForeignKey("tournaments.id"), primary_key=True),
    sa.Column("previous", sa.ForeignKey("tournaments.id"), nullable=False),
)
_proposals = sa.Table(
    "proposals",
    _schema,
    sa.Column("tournament_id", sa.ForeignKey("tournaments.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url)
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise UserError(
            f"The ledger address cannot be used ({error}); give METARESEARCH_LEDGER an SQLAlchemy "
            "URL such as postgresql+psycopg://user@host/name and install its driver."
        ) from error


class Ledger:
    """Read and append facts. One writer at a time (the driver); readers any time.

    Args:
        url: SQLAlchemy URL; `sqlite:///PATH` by default, PostgreSQL works too.

    Raises:
        UserError: the database is damaged, unreadable or from a newer version.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        shown = self.engine.url.render_as_string(hide_password=True)
        self.name = shown.removeprefix("sqlite:///")
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _set_pragmas)
        with self._damage_is_a_sentence():
            if self.engine.dialect.name == "sqlite":
                self._check_integrity()
            _schema.create_all(self.engine)
            self._check_version()

    @classmethod
    def at(cls, path: Path) -> Ledger:
        """The SQLite ledger in file `path`, made if missing."""
        return cls(f"sqlite:///{path}")

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()

    # --- writing ------------------------------------------------------------------------------

    def add_program(self, program_id: str, name: str, body: bytes) -> None:
        """Keep a program's exact bytes; adding it again changes nothing."""
        self._insert_once(_programs, {"id": program_id, "name": name, "body": body})

    def add_submission(self, submission: Submission, at: str) -> None:
        """Keep who offered which program; adding it again changes nothing."""
        row = {"id": submission.id, "program_id": submission.program_id, "at": at}
        self._insert_once(_submissions, row | {"record": submission.model_dump_json()})

    def add_tournament(self, tournament: Tournament, at: str) -> None:
        """Freeze a plan; adding the same plan again changes nothing."""
        row = {"id": tournament.id, "fingerprint": tournament.track.fingerprint, "at": at}
        self._insert_once(_tournaments, row | {"record": tournament.model_dump_json()})

    def add_round(self, tournament_id: str, previous: str) -> None:
        """Say which tournament this one follows, with programs rewritten from its evidence."""
        self._insert_once(_rounds, {"tournament_id": tournament_id, "previous": previous})

    def add_proposals(self, tournament_id: str, proposals: Sequence[Proposal], at: str) -> None:
        """Add what a rewriter proposed from a tournament's evidence, refused ones included."""
        for number, proposal in enumerate(proposals, start=1):
            key = {"tournament_id": tournament_id, "number": number}
            self._insert_once(_proposals, key | {"record": proposal.model_dump_json(), "at": at})

    def add_run(self, run: Run) -> None:
        """Plan a run; adding it again changes nothing, whatever its state by now."""
        static = run.model_dump_json(exclude=_RUN_STATE_FIELDS | {"spent"})
        row = {"id": run.id, "tournament_id": run.tournament_id, "record": static}
        state = {"state": run.state, "exit_reason": "", "tip": "", "started_at": "", "ended_at": ""}
        self._insert_once(_runs, row | state)

    def set_run(self, run_id: str, **state: str) -> None:
        """Update a run's state columns: state, exit_reason, tip, started_at, ended_at."""
        assert set(state) <= _RUN_STATE_FIELDS, state
        with self.engine.begin() as db:
            db.execute(_runs.update().where(_runs.c.id == run_id).values(**state))

    def add_move(self, run_id: str, number: int, move: Move, at: str) -> None:
        """Write a researcher's answer down before it has any effect."""
        row = {"run_id": run_id, "number": number, "record": move.model_dump_json(), "at": at}
        with self.engine.begin() as db:
            db.execute(_moves.insert().values(**row))

    def add_experiment(self, experiment: Experiment, at: str, move_number: int | None) -> None:
        """Append a measurement; its verdict is another row."""
        body = experiment.model_dump_json(exclude={"status", "reason"})
        row = {"run_id": experiment.run_id, "index": experiment.index, "record": body, "at": at}
        with self.engine.begin() as db:
            db.execute(_experiments.insert().values(**row, move_number=move_number))

    def add_verdict(self, run_id: str, index: int, status: Status, reason: str, at: str) -> None:
        """Append what became of an experiment; a second verdict on it is ignored."""
        row = {"run_id": run_id, "index": index, "status": status, "reason": reason, "at": at}
        self._insert_once(_verdicts, row)

    # --- reading ------------------------------------------------------------------------------

    def program(self, program_id: str) -> tuple[str, bytes]:
        """Name and exact bytes of a program."""
        with self.engine.connect() as db:
            row = db.execute(_programs.select().where(_programs.c.id == program_id)).first()
        if row is None:
            raise unknown("program", program_id, (i for i, _ in self.programs()))
        return row.name, row.body

    def programs(self) -> list[tuple[str, str]]:
        """All (id, name) pairs, by name."""
        query = sa.select(_programs.c.id, _programs.c.name).order_by(_programs.c.name)
        with self.engine.connect() as db:
            return [(row.id, row.name) for row in db.execute(query)]

    def submissions(self) -> list[Submission]:
        """All submissions, oldest first."""
        query = _submissions.select().order_by(_submissions.c.at, _submissions.c.id)
        with self.engine.connect() as db:
            return [Submission.model_validate_json(r.record) for r in db.execute(query)]

    def tournaments(self) -> list[Tournament]:
        """All tournaments, oldest first."""
        query = _tournaments.select().order_by(_tournaments.c.seq)
        with self.engine.connect() as db:
            return [Tournament.model_validate_json(r.record) for r in db.execute(query)]

    def tournament(self, tournament_id: str | None = None) -> Tournament:
        """One tournament by id; the newest without one.

        Raises:
            UserError: there is none, or none with that id.
        """
        known = self.tournaments()
        if not known:
            raise UserError(
                "The ledger holds no tournament yet; run `metaresearch demo` or "
                "`metaresearch tournament` first."
            )
        if tournament_id is None:
            return known[-1]
        for tournament in known:
            if tournament.id == tournament_id:
                return tournament
        raise unknown("tournament", tournament_id, (t.id for t in known))

    def series(self, tournament_id: str) -> list[Tournament]:
        """The rounds that lead to a tournament, oldest first, itself last."""
        with self.engine.connect() as db:
            rows = db.execute(_rounds.select()).all()
        previous, chain = {r.tournament_id: r.previous for r in rows}, [tournament_id]
        while (before := previous.get(chain[0])) is not None:
            chain.insert(0, before)
        return [self.tournament(each) for each in chain]

    def proposals(self, tournament_id: str) -> list[Proposal]:
        """What was proposed from a tournament's evidence, in order."""
        query = _proposals.select().where(_proposals.c.tournament_id == tournament_id)
        with self.engine.connect() as db:
            rows = db.execute(query.order_by(_proposals.c.number)).all()
        return [Proposal.model_validate_json(row.record) for row in rows]

    def runs(self, tournament_id: str) -> list[Run]:
        """A tournament's runs in order of replicate and name, with state and spending."""
        query = _runs.select().where(_runs.c.tournament_id == tournament_id)
        with self.engine.connect() as db:
            found = [self._run(row) for row in db.execute(query)]
        return sorted(found, key=lambda r: (r.replicate, r.role != "baseline", r.id))

    def run(self, run_id: str) -> Run:
        """One run by id.

        Raises:
            UserError: there is none with that id.
        """
        with self.engine.connect() as db:
            row = db.execute(_runs.select().where(_runs.c.id == run_id)).first()
            if row is None:
                raise unknown("run", run_id, db.execute(sa.select(_runs.c.id)).scalars())
        return self._run(row)

    def experiments(self, run_id: str) -> list[Experiment]:
        """A run's experiments in order, each with its verdict if it has one."""
        both = _experiments.outerjoin(_verdicts)
        query = (
            sa.select(_experiments.c.record, _verdicts.c.status, _verdicts.c.reason)
            .select_from(both)
            .where(_experiments.c.run_id == run_id)
            .order_by(_experiments.c.index)
        )
        with self.engine.connect() as db:
            rows = db.execute(query).all()
        return [
            Experiment.model_validate_json(r.record).model_copy(
                update={"status": r.status, "reason": r.reason or ""}
            )
            for r in rows
        ]

    def moves(self, run_id: str) -> list[Move]:
        """A run's moves in order; move number N is at position N - 1."""
        query = _moves.select().where(_moves.c.run_id == run_id).order_by(_moves.c.number)
        with self.engine.connect() as db:
            return [Move.model_validate_json(r.record) for r in db.execute(query)]

    def move_numbers(self, run_id: str) -> dict[int, int]:
        """Which move caused which experiment: {experiment index: move number}."""
        e = _experiments.c
        query = sa.select(e["index"], e.move_number).where(
            e.run_id == run_id, e.move_number.is_not(None)
        )
        with self.engine.connect() as db:
            return {int(row[0]): int(row[1]) for row in db.execute(query)}

    def _run(self, row: Any) -> Run:
        static = Run.model_validate_json(row.record)
        state = {name: getattr(row, name) for name in _RUN_STATE_FIELDS}
        return static.model_copy(update={**state, "spent": self.spent(row.id)})

    def spent(self, run_id: str) -> Spent:
        """What a run has used; one call of unknown price leaves its dollars unknown."""
        charged = [e for e in self.experiments(run_id) if e.kind in ("edit", "rerun")]
        used = sum((move.usage for move in self.moves(run_id)), Usage())
        return Spent(
            experiments=len(charged),
            gpu_seconds=sum(e.measured.clock_seconds for e in charged),
            tokens=used.tokens,
            usd=used.usd,
        )

    # --- integrity ----------------------------------------------------------------------------

    def _insert_once(self, table: sa.Table, row: dict[str, Any]) -> None:
        # RACE: none, one writer; the check keeps re-planning after a crash idempotent
        keys = [table.c[k.name] == row[k.name] for k in table.primary_key if k.name in row]
        with self.engine.begin() as db:
            if not keys:
                keys = [table.c.id == row["id"]]
            if db.execute(sa.select(sa.literal(1)).select_from(table).where(*keys)).first() is None:
                db.execute(table.insert().values(**row))

    def _check_integrity(self) -> None:
        with self.engine.connect() as db:
            found = db.execute(sa.text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise self._damaged(str(found))

    def _check_version(self) -> None:
        with self.engine.begin() as db:
            version = db.execute(sa.select(_meta.c.schema_version)).scalar()
            if version is None:
                db.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
        if version is not None and version != SCHEMA_VERSION:
            raise UserError(
                f"Ledger {self.name} has schema version {version}, this metaresearch reads "
                f"{SCHEMA_VERSION}; use the release that wrote it, or another METARESEARCH_HOME."
            )

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"Ledger {self.name} is damaged ({reason}); move it away or "
            "restore a copy, then run the same command again."
        )

    @contextmanager
    def _damage_is_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise UserError(
                f"Ledger {self.name} cannot be opened ({error.orig}); check the address, the "
                "permissions and the free space."
            ) from error
        except sa.exc.DatabaseError as error:
            raise self._damaged(str(error.orig)) from error


_RUN_STATE_FIELDS = {"state", "exit_reason", "tip", "started_at", "ended_at"}
