//! Action results in protobuf's JSON, translated by the table of `shape.rs` from and to protobuf.
//!
//! moon speaks it over HTTP. What is read is generous, as the mapping asks for: names in camel or snake case, 64-bit
//! numbers as texts or numbers, `null` for a default, both alphabets of base64. What is written is the canonical form.
//! A field that the table does not know means that this is no action result; moon 2.4.0 to 2.4.3 send such JSON of their own.
//!
//! `auxiliary_metadata`, whose contents only its writer knows, has no JSON here: it is not read, and left out where it was
//! stored as protobuf.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, SerializeMap, SerializeSeq, Serializer};

use super::moment::{read_moment, read_span, write_moment, write_span};
use super::shape::{ACTION_RESULT, Field, Kind, Shape};
use crate::reapi::fields::{Fields, Malformed, Value, put_block, put_varint};

const BASE64: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, BASE64);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, BASE64);

/// The action result that this JSON is, as protobuf; `None` if it is none.
pub(super) fn read_action_result(json: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(json.len());
    let mut source = serde_json::Deserializer::from_slice(json);
    let object = Object {
        shape: &ACTION_RESULT,
        out: &mut message,
    };
    source.deserialize_map(object).ok()?;
    source.end().ok()?;
    Some(message)
}

/// The JSON of an action result; `None` if the bytes are none, or have no JSON.
pub(super) fn write_action_result(message: &[u8]) -> Option<Vec<u8>> {
    let rendered = Rendered {
        shape: &ACTION_RESULT,
        message,
    };
    serde_json::to_vec(&rendered).ok()
}

/// A JSON object that becomes the message `out`.
struct Object<'o> {
    shape: &'static Shape,
    out: &'o mut Vec<u8>,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = 0_u32;
        while let Some(field) = map.next_key_seed(Name(self.shape))? {
            if seen & (1 << field.number) != 0 {
                return Err(de::Error::custom("a field that comes twice"));
            }
            seen |= 1 << field.number;
            let in_list = false;
            let out = &mut *self.out;
            map.next_value_seed(Content {
                field,
                in_list,
                out,
            })?;
        }
        Ok(())
    }
}

/// The name of a field.
struct Name(&'static Shape);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = &'static Field;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<&'static Field, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = &'static Field;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<&'static Field, E> {
        let called = |field: &&Field| field.name == text || camel_case(field.name).eq(text.bytes());
        let field = self.0.0.iter().find(called);
        field.ok_or_else(|| E::custom("an unknown field"))
    }
}

/// The name in JSON.
fn camel_case(name: &str) -> impl Iterator<Item = u8> {
    let mut upper = false;
    name.bytes().filter_map(move |byte| {
        let letter = if upper {
            byte.to_ascii_uppercase()
        } else {
            byte
        };
        upper = byte == b'_';
        (!upper).then_some(letter)
    })
}

/// The value of a field, appended to the message `out`.
struct Content<'o> {
    field: &'static Field,
    /// This is one of a repeated field's values.
    in_list: bool,
    out: &'o mut Vec<u8>,
}

impl Content<'_> {
    fn takes_one(&self) -> bool {
        self.in_list || !self.field.repeated
    }

    fn unfit<E: de::Error>(&self) -> E {
        E::custom(format_args!("{} cannot be this", self.field.name))
    }

    fn number<E: de::Error>(self, number: i64) -> Result<(), E> {
        let fits = match self.field.kind {
            Kind::Int32 => i32::try_from(number).is_ok(),
            Kind::Int64 => true,
            Kind::UInt32Value => u32::try_from(number).is_ok(),
            Kind::Bool
            | Kind::Text
            | Kind::Bytes
            | Kind::Message(_)
            | Kind::Timestamp
            | Kind::Duration
            | Kind::Any => false,
        };
        if !fits || !self.takes_one() {
            return Err(self.unfit());
        }
        if matches!(self.field.kind, Kind::UInt32Value) {
            let mut wrapped = Vec::new();
            put_number(1, number, &mut wrapped);
            put_block(self.field.number, &wrapped, self.out);
        } else {
            put_number(self.field.number, number, self.out);
        }
        Ok(())
    }

    fn block(self, block: &[u8]) {
        if !block.is_empty() {
            put_block(self.field.number, block, self.out);
        }
    }

    fn seconds_and_nanos(self, seconds: i64, nanos: i32) {
        let mut message = Vec::new();
        put_number(1, seconds, &mut message);
        put_number(2, nanos.into(), &mut message);
        put_block(self.field.number, &message, self.out);
    }
}

/// Appends a number, which is left out if it is zero.
fn put_number(field: u32, number: i64, out: &mut Vec<u8>) {
    if number != 0 {
        put_varint(u64::from(field) << 3, out);
        put_varint(number.cast_unsigned(), out);
    }
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a value of {}", self.field.name)
    }

    /// `null` is the default.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.in_list {
            return Err(self.unfit());
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        if !matches!(self.field.kind, Kind::Bool) || !self.takes_one() {
            return Err(self.unfit());
        }
        put_number(self.field.number, value.into(), self.out);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.number(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.number(value),
            Err(_) => Err(self.unfit()),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if !self.takes_one() {
            return Err(self.unfit());
        }
        match self.field.kind {
            Kind::Text => self.block(text.as_bytes()),
            Kind::Bytes => {
                let url_safe = text.contains(['-', '_']);
                let alphabet = if url_safe { URL_SAFE } else { STANDARD };
                let bytes = alphabet.decode(text).map_err(|_| self.unfit())?;
                self.block(&bytes);
            }
            Kind::Int32 | Kind::Int64 | Kind::UInt32Value => {
                let number = text.parse().map_err(|_| self.unfit())?;
                self.number(number)?;
            }
            Kind::Timestamp => {
                let (seconds, nanos) = read_moment(text).ok_or_else(|| self.unfit())?;
                self.seconds_and_nanos(seconds, nanos);
            }
            Kind::Duration => {
                let (seconds, nanos) = read_span(text).ok_or_else(|| self.unfit())?;
                self.seconds_and_nanos(seconds, nanos);
            }
            Kind::Bool | Kind::Message(_) | Kind::Any => return Err(self.unfit()),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(shape) = self.field.kind else {
            return Err(self.unfit());
        };
        if !self.takes_one() {
            return Err(self.unfit());
        }
        let mut message = Vec::new();
        let out = &mut message;
        Object { shape, out }.visit_map(map)?;
        put_block(self.field.number, &message, self.out);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.takes_one() {
            return Err(self.unfit());
        }
        let (field, in_list) = (self.field, true);
        loop {
            let out = &mut *self.out;
            let next = list.next_element_seed(Content {
                field,
                in_list,
                out,
            })?;
            if next.is_none() {
                return Ok(());
            }
        }
    }
}

/// A message as JSON.
struct Rendered<'m> {
    shape: &'static Shape,
    message: &'m [u8],
}

impl Serialize for Rendered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for field in self.shape.0 {
            let message = self.message;
            let mut count = 0;
            for value in (Values { field, message }).all() {
                value.map_err(ser::Error::custom)?;
                count += 1;
            }
            if count > 0 {
                put_entry(&mut object, &Values { field, message }, count)?;
            }
        }
        object.end()
    }
}

/// The values of one field of a message. They are looked for each time they are needed: a table of all fields would be many times as
/// large as a message of many small ones, and passing over fields is cheap.
struct Values<'m> {
    field: &'static Field,
    message: &'m [u8],
}

impl<'m> Values<'m> {
    fn all(&self) -> impl Iterator<Item = Result<Value<'m>, Malformed>> + use<'m> {
        let wanted = self.field.number;
        Fields::of(self.message).filter_map(move |field| match field {
            Ok((number, value)) => (number == wanted).then_some(Ok(value)),
            Err(malformed) => Some(Err(malformed)),
        })
    }

    /// The value that counts of a field that is no message.
    fn last<E: ser::Error>(&self) -> Result<Value<'m>, E> {
        let last = self.all().last().expect("a field that was sent");
        last.map_err(E::custom)
    }

    /// The message that all values together are.
    fn merged<E: ser::Error>(&self, count: usize) -> Result<Cow<'m, [u8]>, E> {
        if count == 1 {
            return block_of(self.last()?).map(Cow::Borrowed);
        }
        let mut merged = Vec::new();
        for value in self.all() {
            merged.extend_from_slice(block_of(value.map_err(E::custom)?)?);
        }
        Ok(Cow::Owned(merged))
    }
}

/// The messages of a repeated field.
struct List<'v, 'm>(&'static Shape, &'v Values<'m>);

impl Serialize for List<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for value in self.1.all() {
            let message = block_of(value.map_err(ser::Error::custom)?)?;
            let shape = self.0;
            list.serialize_element(&Rendered { shape, message })?;
        }
        list.end()
    }
}

/// Adds a field, unless it has its default. As protobuf has it, of several values the last counts, and messages are merged.
fn put_entry<M: SerializeMap>(
    object: &mut M,
    values: &Values<'_>,
    count: usize,
) -> Result<(), M::Error> {
    let field = values.field;
    let name: Vec<u8> = camel_case(field.name).collect();
    let name = std::str::from_utf8(&name).expect("letters");
    match field.kind {
        Kind::Any => {}
        Kind::Message(shape) if field.repeated => {
            object.serialize_entry(name, &List(shape, values))?;
        }
        Kind::Message(shape) => {
            let message = &values.merged(count)?;
            object.serialize_entry(name, &Rendered { shape, message })?;
        }
        Kind::Timestamp | Kind::Duration => {
            let message = values.merged(count)?;
            let (seconds, nanos) = (number_in(&message, 1)?, number_in(&message, 2)?);
            let text = match field.kind {
                Kind::Timestamp => write_moment(seconds, nanos),
                _ => write_span(seconds, nanos),
            };
            let text = text.ok_or_else(|| ser::Error::custom("no time"))?;
            object.serialize_entry(name, &text)?;
        }
        Kind::UInt32Value => {
            let number = number_in(&values.merged(count)?, 1)?;
            object.serialize_entry(name, &(number as u32))?;
        }
        Kind::Text => {
            let text =
                std::str::from_utf8(block_of(values.last()?)?).map_err(ser::Error::custom)?;
            if !text.is_empty() {
                object.serialize_entry(name, text)?;
            }
        }
        Kind::Bytes => {
            let bytes = block_of(values.last()?)?;
            if !bytes.is_empty() {
                object.serialize_entry(name, &STANDARD.encode(bytes))?;
            }
        }
        Kind::Bool | Kind::Int32 | Kind::Int64 => match (&field.kind, number_of(values.last()?)?) {
            (_, 0) => {}
            (Kind::Bool, _) => object.serialize_entry(name, &true)?,
            // A number beyond 32 bits is cut off, as all protobuf readers do.
            (Kind::Int32, number) => object.serialize_entry(name, &(number as i32))?,
            (_, number) => object.serialize_entry(name, &number.to_string())?,
        },
    }
    Ok(())
}

fn block_of<E: ser::Error>(value: Value<'_>) -> Result<&[u8], E> {
    match value {
        Value::Bytes(block) => Ok(block),
        Value::Varint(_) | Value::Fixed => Err(E::custom("a number instead of bytes")),
    }
}

fn number_of<E: ser::Error>(value: Value<'_>) -> Result<i64, E> {
    match value {
        Value::Varint(number) => Ok(number.cast_signed()),
        Value::Bytes(_) | Value::Fixed => Err(E::custom("bytes instead of a number")),
    }
}

/// The number in field `wanted` of a message.
fn number_in<E: ser::Error>(message: &[u8], wanted: u32) -> Result<i64, E> {
    let mut found = 0;
    for field in Fields::of(message) {
        let (number, value) = field.map_err(E::custom)?;
        if number == wanted {
            found = number_of(value)?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
