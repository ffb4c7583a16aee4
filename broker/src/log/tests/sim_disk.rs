//! A disk in memory that knows what was made durable. A crash keeps of the rest
//! whatever it likes, sector by sector and name by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, RngExt};

use crate::log::disk::{Disk, DiskFile, WriteWay};

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the folder was synced.
    renamed: Vec<NameChange>,
    /// Operations so far that change something.
    operations: u64,
    /// Every operation from this one on fails.
    power_off_at: Option<u64>,
    /// Only this one fails.
    fail_at: Option<u64>,
    recycled: usize,
    /// Syncs do nothing.
    syncs_lie: bool,
    /// No file can be made.
    is_full: bool,
    /// So many were not made because of that.
    refused: usize,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    /// Empty until it was synced once: its length is not durable before.
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Created(String, usize),
    Renamed(String, String, usize),
    Removed(String),
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the next `operations` changes happen, and none after.
    pub(super) fn power_off_after(&self, operations: u64) {
        let mut state = self.state();
        state.power_off_at = Some(state.operations + operations);
    }

    /// Lets the change after the next `operations` fail, and only that one.
    pub(super) fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.fail_at = Some(state.operations + operations);
    }

    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    pub(super) fn let_syncs_lie(&self) {
        self.state().syncs_lie = true;
    }

    /// Whether files can be made.
    pub(super) fn let_there_be_room(&self, room: bool) {
        self.state().is_full = !room;
    }

    /// How many files could not be made for want of room.
    pub(super) fn refused(&self) -> usize {
        self.state().refused
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The bytes of a file, to be looked at or changed as damage would.
    pub(super) fn with_file<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.state();
        let file = state.names[name];
        change(&mut state.files[file].bytes)
    }

    /// How many files were made.
    pub(super) fn created(&self) -> usize {
        self.state().files.len()
    }

    /// How many segments were made of spare files.
    pub(super) fn recycled(&self) -> usize {
        self.state().recycled
    }

    pub(super) fn remove_file(&self, name: &str) {
        self.state().names.remove(name);
    }

    /// Another disk with the same files, all durable.
    pub(super) fn copy(&self) -> Self {
        let state = self.state();
        let copied = |name: &String| (name.clone(), state.names[name]);
        let names: BTreeMap<_, _> = state.names.keys().map(copied).collect();
        let files = state.files.iter().map(|file| File {
            bytes: file.bytes.clone(),
            durable: file.bytes.clone(),
            dirty: BTreeSet::new(),
        });
        Self(Arc::new(Mutex::new(State {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            ..State::default()
        })))
    }

    /// The process ends; what it wrote is there, and no more durable than before.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        state.power_off_at = None;
        state.fail_at = None;
    }

    /// The power fails and comes back. What was not synced is there or not, as
    /// `rng` decides.
    pub(super) fn crash(&self, rng: &mut impl Rng) {
        self.kill();
        let mut state = self.state();
        let state = &mut *state;
        for change in std::mem::take(&mut state.renamed) {
            if rng.random_bool(0.5) {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        // Mostly some of the sectors, but also none and all of them.
        let kept = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        for file in &mut state.files {
            if file.durable.is_empty() && rng.random_bool(0.5) {
                file.durable = vec![0; file.bytes.len()];
            }
            for sector in std::mem::take(&mut file.dirty) {
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                if !file.durable.is_empty() && rng.random_bool(kept) {
                    file.durable[range.clone()].copy_from_slice(&file.bytes[range]);
                }
            }
            file.bytes = file.durable.clone();
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Created(name, file) => drop(names.insert(name, file)),
            Self::Renamed(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Removed(name) => drop(names.remove(&name)),
        }
    }
}

impl State {
    fn operation(&mut self) -> io::Result<()> {
        let at = self.operations;
        self.operations += 1;
        if self.power_off_at.is_some_and(|off| at >= off) {
            return Err(io::Error::other("the power is off"));
        }
        if self.fail_at == Some(at) {
            return Err(io::Error::other("the disk says no"));
        }
        Ok(())
    }

    /// The sectors that it wrote.
    fn write(&mut self, file: usize, bytes: &[u8], offset: u64) -> io::Result<Range<usize>> {
        // A write that fails may still have written.
        let result = self.operation();
        let off = self
            .power_off_at
            .is_some_and(|off| self.operations > off + 1);
        let offset = offset as usize;
        let sectors = offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES);
        if !off {
            let file = &mut self.files[file];
            file.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
            file.dirty.extend(sectors.clone());
        }
        result.map(|()| sectors)
    }

    fn change_names(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.renamed.push(change);
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        let file = self.names.get(name).copied();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl SimDisk {
    fn handle(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            file,
        })
    }
}

impl Disk for SimDisk {
    fn way(&self) -> WriteWay {
        WriteWay::Direct
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.operation()?;
        if state.is_full {
            state.refused += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room"));
        }
        let file = state.files.len();
        state.files.push(File {
            bytes: vec![0; size as usize],
            durable: Vec::new(),
            dirty: BTreeSet::new(),
        });
        state.change_names(NameChange::Created(name.to_owned(), file));
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.state().file(name)?;
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let file = state.file(from)?;
        state.recycled += usize::from(from.ends_with(".spare"));
        state.change_names(NameChange::Renamed(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.file(name)?;
        state.change_names(NameChange::Removed(name.to_owned()));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        if !state.syncs_lie {
            state.durable_names = state.names.clone();
            state.renamed.clear();
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = &state.files[self.file].bytes;
        let offset = offset as usize;
        let read = bytes
            .get(offset..offset + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(read);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.state().write(self.file, bytes, offset).map(drop)
    }

    fn write_past_cache(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        self.write_at(bytes, offset).map(|()| true)
    }

    /// Only these sectors become durable, whatever else was written before.
    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let sectors = state.write(self.file, bytes, offset)?;
        if !state.syncs_lie {
            let file = &mut state.files[self.file];
            if file.durable.is_empty() {
                file.durable = vec![0; file.bytes.len()];
            }
            for sector in sectors {
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                file.durable[range.clone()].copy_from_slice(&file.bytes[range]);
                file.dirty.remove(&sector);
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operation()?;
        if !state.syncs_lie {
            let file = &mut state.files[self.file];
            file.durable = file.bytes.clone();
            file.dirty.clear();
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].bytes.len() as u64)
    }
}
