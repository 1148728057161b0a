"""The table of mutants: for each guard a change of the server that takes it away, and the tests that must see it.

A mutation is textual: each `old` is found exactly once in its file, or the table is out of date and says so.
"""

from typing import Final

from tests.fault.fairness_mutants import PROOFS_OF_FAIRNESS
from tests.fault.identity_mutants import PROOFS_OF_IDENTITY
from tests.fault.mutant import Edit, Mutant
from tests.fault.restore_mutants import PROOFS_OF_RESTORES
from tests.fault.tenant_mutants import RIGHTS_OF_TENANTS

MIGRATION: Final = "store/migrations/versions/0001_foundation.py"
GUARDS: Final = "tests/store/test_sqlite_guards.py"
DATA_FILE: Final = "tests/store/test_data_file.py"
LOST: Final = "tests/race/test_lost_answers.py"
STORY: Final = "tests/race/test_seed_story.py"
LEASES: Final = "tests/race/test_leases.py"
TOKENS: Final = "tests/race/test_tokens.py"
WRITERS: Final = "tests/race/test_two_writers.py"
EDGE: Final = "tests/rpc/test_drain_and_limits.py"
SERVERS: Final = "tests/race/test_two_servers.py"
AUTHORIZATION: Final = "tests/rpc/test_authorization.py"


MUTANTS: Final[dict[str, Mutant]] = {
    # What the database makes impossible.
    "drops the trigger": Mutant(
        "held_blocks_counted: the counter moves with the rows, in SQL",
        (Edit(MIGRATION, "for trigger in _SQLITE_TRIGGERS:", "for trigger in _SQLITE_TRIGGERS[1:]:"),),
        (f"{STORY}::test_six_replicas_leave_two_idle_and_their_doubled_releases_leave_eight",),
    ),
    "drops the CHECK": Mutant(
        "busy_blocks is between 0 and total_blocks",
        (
            Edit(
                MIGRATION,
                'sa.CheckConstraint("busy_blocks BETWEEN 0 AND total_blocks", name=op.f("ck_instances_busy_blocks")),',
                "",
            ),
        ),
        (GUARDS,),
    ),
    "drops the primary key": Mutant(
        "two holders of one block cannot be written down",
        (
            Edit(
                MIGRATION,
                'sa.PrimaryKeyConstraint("fleet", "instance", "block", name=op.f("pk_held_blocks")),',
                'sa.PrimaryKeyConstraint("fleet", "instance", "block", "allocation", name=op.f("pk_held_blocks")),',
            ),
        ),
        ("tests/fault/test_last_line.py::test_a_block_that_memory_takes_for_idle_is_not_given_to_a_second_holder",),
    ),
    "drops the key to live allocations": Mutant(
        "an allocation does not end while it has blocks",
        (
            Edit(
                MIGRATION,
                """        sa.ForeignKeyConstraint(
            ["fleet", "live", "allocation"],
            ["allocations.fleet", "allocations.live", "allocations.allocation"],
            name="fk_held_blocks_live_allocation",
        ),
""",
                "",
            ),
        ),
        (GUARDS,),
    ),
    "leaves foreign keys off": Mutant(
        "the writer's connection checks foreign keys",
        (Edit("store/sqlite/store.py", 'db.execute("PRAGMA foreign_keys = ON")', "pass"),),
        ("tests/store/test_sqlite_opening.py::test_the_writer_is_durable_and_checked",),
    ),
    "does not wait for the disk": Mutant(
        "a commit that is answered survives a power cut",
        (Edit("store/sqlite/store.py", "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"),),
        ("tests/store/test_sqlite_opening.py::test_the_writer_is_durable_and_checked",),
    ),
    # One transaction, and the answer after it.
    "answers before the commit": Mutant(
        "the answer comes after the commit, which here waits for the next transaction",
        (
            Edit(
                "store/sqlite/store.py",
                'db.execute("BEGIN IMMEDIATE")\n            session',
                'self._end(db)\n            db.execute("BEGIN IMMEDIATE")\n            session',
            ),
            Edit("store/sqlite/store.py", 'db.execute("COMMIT")\n        except', "pass\n        except"),
            Edit(
                "store/sqlite/store.py",
                "        finally:\n            self._end(db)\n\n    @override\n    def open_evidence",
                "\n    @override\n    def open_evidence",
            ),
            Edit(
                "store/sqlite/store.py",
                'db.execute("ROLLBACK")\n        except sqlite3.Error:\n            self._disconnect()',
                'db.execute("COMMIT")\n        except sqlite3.Error:\n            self._disconnect()',
            ),
        ),
        ("tests/fault/test_crash.py::test_a_grant_answered_the_instant_before_the_kill_is_there",),
    ),
    "says done though the commit failed": Mutant(
        "a commit that fails is answered UNAVAILABLE",
        (
            Edit(
                "engine/unit_of_work.py",
                "        except BaseException:\n            self.memory.forget(fleet)",
                "        except StoreFailed:\n            pass\n"
                "        except BaseException:\n            self.memory.forget(fleet)",
            ),
        ),
        (f"{LOST}::test_a_commit_that_fails_is_answered_unavailable_and_leaves_no_trace",),
    ),
    "begins without the lock": Mutant(
        "BEGIN IMMEDIATE: what is read is still true when it is written, also with two connections",
        (
            Edit(
                "store/sqlite/store.py",
                'db.execute("BEGIN IMMEDIATE")\n            session',
                'db.execute("BEGIN")\n            session',
            ),
        ),
        (WRITERS,),
    ),
    "writes tokens after the commit": Mutant(
        "the token and the grant commit together",
        (
            Edit(
                "store/transaction.py",
                "self._insert(self._statements.INSERT_TOKEN, changes.tokens)",
                "self.late = changes.tokens",
            ),
            Edit(
                "store/sqlite/store.py",
                "transaction.wrote:\n                self._commit(db)\n",
                "transaction.wrote:\n                self._commit(db)\n"
                "                db.executemany(statements.INSERT_TOKEN, getattr(transaction, 'late', ()))\n",
            ),
        ),
        (f"{LOST}::test_a_commit_whose_answer_is_lost_is_found_again_by_its_token",),
    ),
    "looks tokens up once for each batch": Mutant(
        "a request sees the tokens of those before it in the same transaction",
        (
            Edit(
                "engine/batch.py",
                "    records.apply(event)\n    events.append(event)\n",
                "    events.append(event)\n",
            ),
        ),
        (f"{TOKENS}::test_the_answers_of_one_batch_are_equal_but_for_replayed",),
    ),
    "keeps its memory after a failed commit": Mutant(
        "memory is forgotten when its transaction did not commit",
        (
            Edit(
                "engine/unit_of_work.py",
                "        except BaseException:\n            self.memory.forget(fleet)",
                "        except BaseException:",
            ),
        ),
        (WRITERS,),
    ),
    "does not catch up": Mutant(
        "memory is as new as the fleet's row before anything is decided",
        (Edit("engine/memory.py", "if state is None or not _catch_up(state, tx.head, tx):", "if state is None:"),),
        (WRITERS,),
    ),
    # Tokens.
    "grants a replay anew": Mutant(
        "a token is granted once, whatever has become of its allocation",
        (Edit("domain/acquire.py", "if known is not None:", "if known is not None and known.allocation is None:"),),
        (f"{TOKENS}::test_fifty_copies_of_one_acquire_in_flight_are_one_grant_and_fifty_equal_answers",),
    ),
    "answers a replay of what has ended": Mutant(
        "a replay that is answered OK means held",
        (
            Edit(
                "domain/acquire.py",
                "if allocation is None or not allocation.is_held(now_us):",
                "if allocation is None:",
            ),
        ),
        (f"{TOKENS}::test_an_acquire_that_arrives_after_its_release_is_refused_for_ever",),
    ),
    "takes any request with a known token for a replay": Mutant(
        "a token belongs to one request",
        (Edit("domain/acquire.py", "if differing:", "if False:"),),
        (f"{TOKENS}::test_one_token_for_two_requests_is_granted_to_one_of_them",),
    ),
    "forgets a cancellation": Mutant(
        "a release by an unknown token closes the door",
        (
            Edit(
                "domain/release.py",
                "return _cancelled(event.revision, now_us), event",
                "return _cancelled(event.revision, now_us), None",
            ),
        ),
        (f"{TOKENS}::test_an_acquire_that_arrives_after_its_release_is_refused_for_ever",),
    ),
    # Leases.
    "holds a lease at its very end": Mutant(
        "`expire_time <= now` has ended: the predicate",
        (Edit("domain/lease.py", "expire_time_us <= now_us", "expire_time_us < now_us"),),
        ("tests/unit/test_leases.py",),
    ),
    "sweeps a microsecond late": Mutant(
        "`expire_time <= now` has ended: the sweep inside the transaction",
        (Edit("store/sqlite/statements.py", "live = 1 AND expire_time_us <= ?", "live = 1 AND expire_time_us < ?"),),
        (f"{LEASES}::test_at_its_expire_time_a_leases_blocks_are_anothers_though_nobody_swept",),
    ),
    "shows a lease a microsecond too long": Mutant(
        "`expire_time <= now` has ended: the readers",
        (
            Edit(
                "store/reader.py",
                "due = exists().where(allocations.c.fleet == fleet, _LIVE, allocations.c.expire_time_us <= now_us)",
                "due = exists().where(allocations.c.fleet == fleet, _LIVE, allocations.c.expire_time_us < now_us)",
            ),
        ),
        (f"{LEASES}::test_at_its_expire_time_a_lease_is_not_shown_as_held_though_nobody_swept",),
    ),
    "lets the sweeper decide": Mutant(
        "a lease ends by the clock, swept or not",
        (
            Edit(
                "engine/batch.py",
                "    state.cancellations.quotas = quotas\n"
                "    events, more_due = _expire_due(attempt, records, allowance, due)\n",
                "    events, more_due = [], False\n",
            ),
            Edit("domain/lease.py", "return expire_time_us is not None and expire_time_us <= now_us", "return False"),
        ),
        (f"{LEASES}::test_at_its_expire_time_a_lease_is_not_renewable",),
    ),
    "revives a lease": Mutant(
        "a renewal never revives",
        (Edit("domain/renew.py", "    _check_held(state, allocation, now_us)\n", ""),),
        (f"{LEASES}::test_at_its_expire_time_a_lease_is_not_renewable",),
    ),
    "ends leases early after a restart": Mutant(
        "after a start, leases get their grace",
        (Edit("engine/unit_of_work.py", "next_us < until_us:", "False:"),),
        (f"{LEASES}::test_after_a_restart_no_lease_that_was_alive_ends_before_the_grace_has_passed",),
    ),
    # Releases and placement.
    "frees what the caller says": Mutant(
        "a release frees what is held of what was granted",
        (
            Edit(
                "domain/release.py",
                "freed = within(allocation.placements, wanted) if wanted else allocation.placements",
                "freed = wanted or allocation.placements",
            ),
        ),
        (f"{STORY}::test_a_release_with_a_wrong_idea_of_the_size_frees_what_was_granted",),
    ),
    "releases a second time": Mutant(
        "an allocation that has ended is not freed again",
        (
            Edit(
                "domain/release.py",
                "if allocation.state is AllocationState.RELEASED:\n        outcome",
                "if False:\n        outcome",
            ),
        ),
        (f"{STORY}::test_six_replicas_leave_two_idle_and_their_doubled_releases_leave_eight",),
    ),
    "keeps half a gang": Mutant(
        "a demand that fails takes nothing, also in memory",
        (Edit("domain/placement.py", "            index.set_busy(instance, busy)\n", "            pass\n"),),
        (f"{STORY}::test_two_demands_that_only_together_exceed_an_instance_take_nothing",),
    ),
    # The process.
    "shares its port": Mutant(
        "so_reuseport is off",
        (Edit("rpc/server.py", '("grpc.so_reuseport", 0)', '("grpc.so_reuseport", 1)'),),
        ("tests/rpc/test_drain_and_limits.py::test_a_second_server_cannot_take_the_same_port",),
    ),
    "shares its file": Mutant(
        "the lock file and the data file are locked",
        (
            Edit("store/sqlite/data_file.py", "        self._take_lock_file()\n", ""),
            Edit("store/sqlite/data_file.py", "            _lock(descriptor)\n", "            pass\n"),
            Edit("store/sqlite/data_file.py", "if _identity(self.path.stat()) in _locked_here:", "if False:"),
        ),
        (f"{SERVERS}::test_a_second_server_on_the_same_file_refuses_to_start",),
    ),
    "locks a name and not the file": Mutant(
        "the data file itself is locked",
        (Edit("store/sqlite/data_file.py", "            _lock(descriptor)\n", "            pass\n"),),
        (f"{DATA_FILE}::test_a_hard_link_of_a_file_in_use_lets_no_second_server_in",),
    ),
    "commits into a file that is gone": Mutant(
        "after a commit the server looks whether its file is still there",
        (
            Edit(
                "store/sqlite/store.py",
                "        self._expect_in_place()\n        self._expect_log(after_commit=True)",
                "        self._expect_log(after_commit=True)",
            ),
        ),
        (f"{DATA_FILE}::test_a_commit_under_way_while_the_file_goes_is_not_acknowledged",),
    ),
    "hangs up on who waits in the transport": Mutant(
        "a server that drains refuses new calls with a reason before it stops",
        (
            Edit(
                "rpc/server.py",
                "            await self.admission.refuse_until_quiet(\n"
                "                self._settings.quiet_s, min(self._settings.drain_reject_max_s, grace_s / 4), "
                "until_s - grace_s / 4\n"
                "            )\n",
                "",
            ),
        ),
        (f"{EDGE}::test_a_draining_server_refuses_new_calls_politely_until_none_comes_and_tells_its_health",),
    ),
    "leaves a burst to gRPC": Mutant(
        "the server's own limit answers a burst, with a reason",
        (
            Edit("rpc/server.py", '        ("grpc.server.max_pending_requests", pending),\n', ""),
            Edit(
                "rpc/server.py",
                '        ("grpc.server.max_pending_requests_hard_limit", pending),\n',
                "",
            ),
        ),
        ("tests/rpc/test_bursts.py::test_every_call_of_a_burst_is_granted_or_refused_with_a_reason_and_a_time",),
    ),
    "gives the database's descriptors away": Mutant(
        "connections are limited below the file descriptors",
        (Edit("rpc/server.py", '        ("grpc.max_allowed_incoming_connections", max(1, connections)),\n', ""),),
        (
            "tests/fault/test_descriptors.py::test_a_crowd_of_connections_takes_no_descriptor_that_the_server_needs[sqlite]",
        ),
    ),
    # PostgreSQL, and what stands before it.
    "gives statements the same names on every connection": Mutant(
        "no session executes a statement that another connection prepared",
        (Edit("store/postgres/pipe.py", "self._names = secrets.token_hex(8)", 'self._names = ""'),),
        ("tests/store/test_postgres_pipe.py::test_two_connections_have_no_name_of_a_statement_in_common",),
    ),
    "looks for tables along the search path": Mutant(
        "a session reads and writes the tables of one schema",
        (
            Edit(
                "store/postgres/target.py",
                "set_config('search_path', {}, false)",
                "set_config('blockyard.path', {}, false)",
            ),
        ),
        ("tests/store/test_search_path.py::test_tables_that_a_search_path_puts_first_are_neither_read_nor_written",),
    ),
    "leaves its sessions behind": Mutant(
        "a fleet does not stay locked by a server that is gone",
        (Edit("store/postgres/target.py", "('client_connection_check_interval', '1000'),", ""),),
        ("tests/store/test_postgres_orphans.py::test_a_server_that_is_killed_in_a_long_statement_keeps_no_lock",),
    ),
    "stops without a word": Mutant(
        "a server that drains says NOT_SERVING",
        (Edit("rpc/server.py", "        self.health.drain()\n", ""),),
        ("tests/race/test_shutdown.py::test_a_call_under_way_is_answered_though_the_server_stops",),
    ),
    # Who calls, and what they may do.
    "asks for the permission on any fleet": Mutant(
        "a role counts on the fleet of the request",
        (
            Edit(
                "rpc/authorization.py",
                "expect_permitted(principal, needed, _fleet_of(request, rule.fields))",
                'expect_permitted(principal, needed, "others-1")',
            ),
        ),
        (f"{AUTHORIZATION}::test_a_role_on_some_fleets_is_none_on_the_others",),
    ),
    "believes the caller that the metadata name": Mutant(
        "a tenant's tokens are its own, whatever it says",
        (
            Edit(
                "rpc/auth/principal.py",
                'return named if named in self.callers else f"{self.tenant}{SEPARATOR}{named}"',
                "return named",
            ),
        ),
        ("tests/rpc/test_identity.py::test_a_tenants_tokens_are_its_own_whatever_caller_it_names",),
    ),
    "keeps no operator's name": Mutant(
        "the journal says who released what is another tenant's",
        (
            Edit(
                "domain/decide.py",
                "if request.actor is not None and event is not None",
                "if request.actor is not None and not request.actor.may_release_any and event is not None",
            ),
        ),
        ("tests/unit/test_ownership.py::test_an_operator_releases_it_and_does_not_renew_it",),
    ),
    "lets anybody renew": Mutant(
        "nobody renews for another tenant",
        (Edit("domain/renew.py", "    check_owner(state, allocation, request)\n", ""),),
        ("tests/unit/test_ownership.py::test_another_tenant_does_not",),
    ),
    **PROOFS_OF_IDENTITY,
    **RIGHTS_OF_TENANTS,
    **PROOFS_OF_FAIRNESS,
    **PROOFS_OF_RESTORES,
}
