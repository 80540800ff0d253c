//! As much of Protocol Buffers as it takes to write an ONNX file: numbers, texts, messages.

/// A message being written.
#[derive(Debug, Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// An integer, in the field of this number.
    pub(super) fn integer(mut self, field: u32, value: i64) -> Self {
        self.varint((field << 3) as u64);
        self.varint(value as u64);
        self
    }

    pub(super) fn float(mut self, field: u32, value: f32) -> Self {
        self.varint((field << 3 | 5) as u64);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint((field << 3 | 2) as u64);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(super) fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn bytes_are_those_of_the_encodings_own_examples() {
        // From protobuf.dev/programming-guides/encoding: 150 in field 1; "testing" in field 2; that in field 3.
        let number = Message::default().integer(1, 150);
        assert_eq!(number.0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").0, *b"\x12\x07testing");
        assert_eq!(Message::default().message(3, &number).0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().float(2, 1.0).0, [0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::default().integer(1, -1).0.len(), 11);
    }
}
