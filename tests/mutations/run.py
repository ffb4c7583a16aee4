#!/usr/bin/env python3
"""Breaks the rules of groups on purpose, one at a time, and runs the model test
of the board, or the random test of the limits that the group's task keeps, which
must fail each time. Takes the changes back in any case.

    python3 tests/mutations/run.py [WORD]

With a word, only those that have it in their names.

Prints a table in Markdown; exits with 1 when a mutation is not caught."""

import pathlib
import re
import subprocess
import sys

GROUP = pathlib.Path(__file__).parents[2] / "broker/src/group"
TEST = ["cargo", "test", "-p", "sluice-broker", "--lib"]
# Which test it is that must fail: that of the board, or that of all that is around it.
TESTS = {"board": "board::model", "task": "task::tests::limits"}

# What is broken, the file (in the board's folder, or as seen from the group's), the
# text, and what it becomes.
MUTATIONS = [
    ("a suspect is ready for anybody", "settling.rs",
     "match suspects {", "match false {"),
    ("a member with a suspect gets more", "delivery.rs",
     "_ if holding.suspects > 0 => 0,", "_ if false => 0,"),
    ("a member's cap is off by one", "delivery.rs",
     "cap => cap.saturating_sub(holding.leases),",
     "cap => (cap + 1).saturating_sub(holding.leases),"),
    ("a loss among neighbours counts an attempt", "leases.rs",
     "alone: holding.leases == 1 && !holding.vanishing,", "alone: true,"),
    ("a loss while alone counts none", "leases.rs",
     "alone: holding.leases == 1 && !holding.vanishing,", "alone: false,"),
    ("a settlement on its way does not freeze its lease", "leases.rs",
     "        entry.place.freeze()?;\n",
     "        if let Place::Settling(_) = entry.place {\n"
     "            return Err(LeaseError::Settling);\n        }\n"),
    ("a settled event leaves its line to nobody", "settling.rs",
     "Ok(Some(next)) => self.has_its_line(next, now_ms),", "Ok(Some(_)) => {}"),
    ("a partition is in no order", "mod.rs",
     "Ordering::Partition => LineName::from(&source[..]),",
     "Ordering::Partition => return None,"),
    ("a failed event lets others pass though it holds its key", "settling.rs",
     "if !self.rules.overtake {", "if false {"),
    ("one that stepped aside does not come back to its line", "settling.rs",
     "let Some(name) = entry.take_aside() else {",
     "let Some(name) = entry.take_aside().filter(|_| false) else {"),
    ("one that stepped aside forgets its key", "settling.rs",
     "entry.past_mut().aside = name;", "let _: Option<Box<[u8]>> = name;"),
    ("a delayed event comes at once", "settling.rs",
     "if due_ms <= now_ms {", "if true {"),
    ("an event held over a restart does not hold its line", "mod.rs",
     "self.enter_line(slot, key.as_deref().map(LineName::from), now_ms);",
     "let _ = (slot, key);"),
    ("the key of a lease is not known", "mod.rs",
     "let name = self.locks.name(line).filter(|_| is_by_key)?;",
     "let name = self.locks.name(line).filter(|_| is_by_key && false)?;"),
    ("held leases do not count against the cap", "counts.rs",
     "self.in_flight + self.held", "self.in_flight"),
    ("attempts from before a restart are forgotten", "arriving.rs",
     "let history = history.unwrap_or_default();",
     "let history = history.filter(|_| false).unwrap_or_default();"),
    ("a parked event is not settled where it was", "parked.rs",
     "self.sources[from.source].window.settle(from.offset);\n", "let _ = from;\n"),
    ("a parked event forgets its attempts", "parked.rs",
     "next_attempt: failed.next_attempt(),", "next_attempt: 1,"),
    ("a parked event that is parked again is in two places", "parked.rs",
     "Some(before) => drop(self.lot.locations.remove(&before)),", "Some(_) => {}"),
    ("an event on its way to be parked is delivered", "settling.rs",
     "if let Place::Moving(waited) = &mut entry.place {",
     "if let (Place::Moving(waited), true) = (&mut entry.place, false) {"),
    ("a turn that comes on the way is missed", "settling.rs",
     "*waited = Waited::Turn;", "let _ = (waited, Waited::Turn);"),
    ("parked events are not looked for after a start", "returning.rs",
     "Some(self.lot.found_end).filter(|next| *next < self.lot.parking.end)", "None"),
    ("parked events come back at the end of their lines", "arriving.rs",
     "self.come_home(source, offset, now_ms);\n            let id", "let id"),
    ("a parked event comes back without its delay", "returning.rs",
     "not_before_ms: of.not_before_ms,", "not_before_ms: 0,"),
    ("a parked lease is held twice after a start", "returning.rs",
     "match self.events.get_mut(&id) {",
     "match self.events.get_mut(&id).filter(|_| false) {"),
    ("a parked event is settled in its first place", "settling.rs",
     "self.sources[self.lot.parking.source].window.settle(at);",
     "self.sources[id.source].window.settle(id.offset);"),
    ("a key whose ack is in line goes to nobody", "settling.rs",
     "        if let Some(next) = next {\n            self.has_its_line(next, now_ms);\n        }\n",
     "        let _ = next;\n"),
    ("an event under lease behind a gap is met twice after a start", "progress.rs",
     "let Some(there) = there else { return };",
     "let there = there.unwrap_or(to);"),
    ("a redriven event that was parked comes back before others", "returning.rs",
     "let scan_next = self.sources[parking].scan_next;",
     "let scan_next = Offset(u64::MAX);"),
    ("what follows a parked event and was not parked is forgotten", "parked.rs",
     "if let Some(line) = self.line_of(id).filter(|_| !was_parked) {",
     "if let Some(line) = self.line_of(id).filter(|_| false) {"),
    ("a lease that is frozen when it is to be noted never is", "leases.rs",
     "self.young.insert(at, (since_ms, token));", "let _ = at;"),
    ("a refused settlement of one who is gone keeps its lease for ever", "leases.rs",
     "if !kept_by_heartbeats {", "if false {"),
    ("one that is heard of again counts as vanishing still", "leases.rs",
     "self.holders.vanishing(&Holder::Member(member), false);",
     "self.holders.vanishing(&Holder::Member(member), true);"),
    ("what was redriven before a restart is not met", "returning.rs",
     "self.lot.found_end = self.sources[parking].window.settled_up_to(next);",
     "self.lot.found_end = self.sources[parking].window.settled_up_to(next);\n"
     "        self.sources[parking].scan_next = self.lot.found_end;"),
    ("retention takes what somebody works on", "gone.rs",
     "matches!(entry.place, Place::Delayed));",
     "matches!(entry.place, Place::Delayed | Place::Leased(_)));"),
    ("what waits to be parked again stays in memory", "keeping.rs",
     "self.unwanted.extend(kept);", "drop(kept);"),
    ("a run is longer than the group's cap allows", "task/deliver.rs",
     "let count = count.min(leases).min(in_flight_max - board.occupied());",
     "let count = count.min(leases);"),
    ("a run is longer than the member's cap allows", "task/deliver.rs",
     "let count = count.min(leases).min(in_flight_max - board.occupied());",
     "let count = count.min(in_flight_max - board.occupied());"),
    ("a paused group delivers", "task/deliver.rs", "            || self.group.paused\n", ""),
    ("who pulls gets more than a member may have", "task/deliver.rs",
     "if self.board.may_have_more(&Holder::Unary(name.clone())) {", "if true {"),
    ("a group gives out more than its cap", "task/deliver.rs",
     "while self.board.occupied() < self.config().max_in_flight as usize\n"
     "            && passed_over < self.board.ready()",
     "while passed_over < self.board.ready()"),
    ("a member is sent more than its messages hold", "./members.rs",
     "            && bytes + size + DELIVERY_OVERHEAD <= self.message_bytes_max\n", ""),
    ("a member is sent more than it has granted", "./credit.rs",
     "self.sent_events += 1;", ""),
]


def main():
    print("| broken | seed | what the test says |\n|---|---|---|")
    missed = 0
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, file, old, new in MUTATIONS:
        if word not in name:
            continue
        path = GROUP / (file if "/" in file else f"board/{file}")
        before = path.read_text()
        assert before.count(old) == 1, f"{name}: {file} has changed"
        try:
            path.write_text(before.replace(old, new))
            test = TESTS["task" if "/" in file else "board"]
            ran = subprocess.run([*TEST, test], capture_output=True, text=True, check=False)
        finally:
            path.write_text(before)
        output = ran.stdout + ran.stderr
        assert "could not compile" not in output, f"{name}: {output}"
        seed = re.findall(r"SLUICE_\w+_SEED=(\d+)", output)
        said = re.search(r"panicked at [^\n]*\n([^\n]*)", output)
        if ran.returncode == 0 or not seed:
            missed += 1
            print(f"| {name} | - | NOT CAUGHT |", flush=True)
        else:
            print(f"| {name} | {seed[-1]} | `{said[1][:100] if said else ''}` |", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
