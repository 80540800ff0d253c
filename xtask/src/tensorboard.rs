//! Event files, as TensorBoard reads them: records of Protocol Buffers messages, each with two checksums.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that scalars are appended to.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new file in `folder`. If the run goes on after `step`, TensorBoard drops what older files
    /// say of later steps: a run that was killed repeats them.
    pub fn create(folder: &Path, step: usize) -> Result<Self> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        let stem = format!("events.out.tfevents.{:.0}.{host}", wall_time());
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        for number in 0usize.. {
            let path = folder.join(format!("{stem}.{}.{number}", std::process::id()));
            match OpenOptions::new().create_new(true).append(true).open(&path) {
                Ok(file) => {
                    let mut events = EventFile { path, file };
                    events.write(&event(0, |message| message.bytes(3, b"brain.Event:2")))?;
                    if step > 0 {
                        let start = Message::default().varint(1, 1);
                        events.write(&event(step + 1, |message| message.bytes(7, &start.0)))?;
                    }
                    return Ok(events);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| cannot(&path)),
            }
        }
        anyhow::bail!("no free name for an event file in {}", folder.display())
    }

    /// Appends the values of named scalars at `step`.
    pub fn scalars(&mut self, step: usize, values: &[(&str, f64)]) -> Result<()> {
        let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
            summary.bytes(1, &Message::default().bytes(1, tag.as_bytes()).float(2, *value as f32).0)
        });
        self.write(&event(step, |message| message.bytes(5, &summary.0)))
    }

    fn write(&mut self, event: &Message) -> Result<()> {
        self.file
            .write_all(&record(&event.0))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Seconds since 1970. The order of events does not depend on them, so the clock may jump.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// An event of now: its time, its step, and what `content` adds.
fn event(step: usize, content: impl FnOnce(Message) -> Message) -> Message {
    content(Message::default().double(1, wall_time()).varint(2, step as u64))
}

/// A record: the length, its checksum, the data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

/// CRC-32C, rotated and shifted, so that checksums of data with checksums in it differ.
fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The four kinds of field that an event consists of.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, kind: u8) {
        self.0.push(field << 3 | kind);
    }

    fn integer(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(mut self, field: u8, value: u64) -> Self {
        self.key(field, 0);
        self.integer(value);
        self
    }

    fn double(mut self, field: u8, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u8, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.key(field, 2);
        self.integer(value.len() as u64);
        self.0.extend(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that TensorBoard's own `EventFileWriter` wrote for these fields.
    #[test]
    fn records_are_tensorboards() {
        let version = Message::default().double(1, 1.5).bytes(3, b"brain.Event:2");
        assert_eq!(hex(&record(&version.0)), VERSION);
        let value = Message::default().bytes(1, b"loss/train").float(2, 0.25);
        let summary = Message::default().bytes(1, &value.0);
        let event = Message::default().double(1, 1.5).varint(2, 300).bytes(5, &summary.0);
        assert_eq!(hex(&record(&event.0)), SCALAR);
    }

    #[test]
    fn every_session_has_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for step in [0, 3] {
            EventFile::create(folder.path(), step).unwrap().scalars(step + 1, &[("loss", 1.0)]).unwrap();
        }
        let sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert_ne!(sizes[0], sizes[1], "only a run that goes on says where it starts");
        assert!(EventFile::create(&folder.path().join("none"), 0).is_err());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const VERSION: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
    const SCALAR: &str = "2100000000000000017becf609000000000000f83f10ac022a130a110a0a6c6f73732f747261696e\
                          150000803e6c5611a4";
}
