//! `sluice check`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;
use sluice_broker::{
    backup,
    commit::{self, Checked, ViewFound},
    data_dir,
};

use super::output;

/// Something that was durable cannot be read.
const DAMAGED: u8 = 3;
/// The log is sound, and the view is not what it should be.
const VIEW_UNSOUND: u8 = 4;

/// Verifies the data folder of a stopped broker, and changes nothing in it.
///
/// Reads every segment, block and frame of the log, folds them into the state,
/// and compares the view with that; of a backup also the list of its files. Ends with 0 when all is sound (a write that
/// was cut short by a crash is: the next start cuts it), 3 when something is
/// damaged that had been durable, 4 when only the view is unsound (remove the
/// folder `view`, the next start builds it again), and 1 when it cannot check.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The data folder.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Prints nothing but a number that is equal for equal states of the broker:
    /// topics, groups, offsets, what is settled, attempts, sessions.
    #[arg(long)]
    state_hash: bool,
    /// Prints JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let _lock = data_dir::lock_to_read(&self.dir)?;
        let backup = backup::of(&self.dir)?;
        let mut checked = commit::check(&self.dir)?;
        if let Some(backup) = backup {
            for wrong in backup.check_contents(&self.dir)? {
                checked.damaged(wrong.to_string());
            }
        }
        if self.json {
            output::json(&as_json(&checked))?;
        } else if let (true, Some(state)) = (self.state_hash, checked.state) {
            output::line(&format!("{:016x}", state.hash))?;
        } else {
            print(&checked)?;
        }
        Ok(match checked.view {
            _ if !checked.log_is_sound() => ExitCode::from(DAMAGED),
            ViewFound::Unsound(_) => ExitCode::from(VIEW_UNSOUND),
            _ => ExitCode::SUCCESS,
        })
    }
}

fn print(checked: &Checked) -> anyhow::Result<()> {
    let log = format!(
        "{} segments, {} blocks of {} bytes, {} frames, {} events",
        checked.segments, checked.blocks, checked.block_bytes, checked.frames, checked.events
    );
    let mut fields = vec![("log", log)];
    if let Some(id) = &checked.log_id {
        fields.push(("identity", hex(id)));
    }
    if let Some(state) = &checked.state {
        let closed = if state.clean { "" } else { "not " };
        fields.push(("end", format!("{}, {closed}closed in order", state.end)));
        let hash = state.hash;
        let (topics, groups) = (state.topics, state.groups);
        fields.push((
            "state",
            format!("{topics} topics, {groups} groups, hash {hash:016x}"),
        ));
    }
    let view = match &checked.view {
        ViewFound::NotChecked => "not checked".to_owned(),
        ViewFound::Agrees { position, entries } => {
            format!("agrees up to {position}, {entries} entries of its index")
        }
        ViewFound::ToBeBuilt(reason) => format!("built by the next start: {reason}"),
        ViewFound::Unsound(problems) => {
            format!(
                "UNSOUND, {} problems; remove it, the next start builds it",
                problems.len()
            )
        }
    };
    fields.push(("view", view));
    let verdict = match checked.damage_count {
        0 => "sound".to_owned(),
        count => format!("DAMAGED in {count} places; restore the folder from a copy"),
    };
    fields.push(("verdict", verdict));
    output::fields(&fields)?;
    for note in &checked.notes {
        output::line(&format!("note: {}", output::plain(note)))?;
    }
    for damage in &checked.damage {
        output::line(&format!("damage: {}", output::plain(damage)))?;
    }
    if let ViewFound::Unsound(problems) = &checked.view {
        for problem in problems {
            output::line(&format!("view: {}", output::plain(problem)))?;
        }
    }
    Ok(())
}

fn as_json(checked: &Checked) -> serde_json::Value {
    let view = match &checked.view {
        ViewFound::NotChecked => json!({"is": "not checked"}),
        ViewFound::Agrees { position, entries } => {
            json!({"is": "agrees", "position": position.0, "entries": entries})
        }
        ViewFound::ToBeBuilt(reason) => json!({"is": "to be built", "reason": reason}),
        ViewFound::Unsound(problems) => json!({"is": "unsound", "problems": problems}),
    };
    json!({
        "log_id": checked.log_id.as_ref().map(hex),
        "segments": checked.segments,
        "blocks": checked.blocks,
        "block_bytes": checked.block_bytes,
        "frames": checked.frames,
        "events": checked.events,
        "damage": checked.damage,
        "damage_count": checked.damage_count,
        "notes": checked.notes,
        "state": checked.state.map(|state| json!({
            "hash": format!("{:016x}", state.hash),
            "topics": state.topics,
            "groups": state.groups,
            "end": state.end.0,
            "clean": state.clean,
        })),
        "view": view,
    })
}

/// An identity as digits.
pub(super) fn hex(id: &[u8; 16]) -> String {
    id.map(|byte| format!("{byte:02x}")).concat()
}
