//! The part of Protocol Buffers that an ONNX file needs: integers, floats, texts and messages.

/// A message that is being written.
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

    /// Adds an integer as field number `field`. The other methods do so for other types.
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
    fn bytes_are_those_of_the_documentations_examples() {
        // Examples of protobuf.dev/programming-guides/encoding: field 1 is 150; field 2 is "testing"; field 3
        // is the message with field 1.
        let number = Message::default().integer(1, 150);
        assert_eq!(number.0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").0, *b"\x12\x07testing");
        assert_eq!(Message::default().message(3, &number).0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().float(2, 1.0).0, [0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::default().integer(1, -1).0.len(), 11);
    }
}
