use super::*;
use crate::name::ObjectId;
use crate::record::Rule;
use proptest::prelude::*;

const NAME: &str = "v1/acme/trusted/packs/p";

fn key() -> MacKey {
    MacKey::new([3; 32])
}

fn record(key: &[u8], rule: Rule) -> Record {
    Record {
        key: Bytes::copy_from_slice(key),
        metadata: Bytes::from_static(b"meta"),
        check: 0x1234,
        rule,
        writer: 0x55,
        written_at_ms: 1_700_000_000_123,
        body_bytes: 0,
        location: Location::First,
        pieces: Bytes::new(),
    }
}

fn object(pack: &Pack) -> Bytes {
    let bytes: Vec<u8> = pack.parts.concat();
    assert_eq!(bytes.len() as u64, pack.object_bytes);
    bytes.into()
}

/// A pack of bodies of these lengths, and what they are.
fn pack_of(lengths: &[usize]) -> (Pack, Vec<(Record, Bytes)>) {
    let mut builder = PackBuilder::new();
    let mut entries = Vec::new();
    for (number, length) in (0_u32..).zip(lengths) {
        let fill = |at: usize| (at as u32 * 7 + number) as u8;
        let body: Bytes = (0..*length).map(fill).collect::<Vec<u8>>().into();
        let record = record(&number.to_le_bytes(), Rule::Content);
        // In two parts, so that pieces and parts have different ends.
        let (left, right) = (body.slice(..length / 3), body.slice(length / 3..));
        entries.push((builder.add(record, vec![left, right]), body));
    }
    (builder.finish(&key(), NAME), entries)
}

fn read(pack: &Pack) -> PackIndex {
    PackIndex::parse(&key(), NAME, pack.index_offset, pack.index.clone()).unwrap()
}

#[test]
fn the_bytes_of_version_1_are_the_documented_ones() {
    let mut builder = PackBuilder::new();
    builder.add(
        record(b"k1", Rule::Content),
        vec![Bytes::from_static(b"abc")],
    );
    let mut large = record(b"k2", Rule::First);
    large.location = Location::Body(ObjectId([0xb0; 16]));
    (large.body_bytes, large.pieces) = (3, Bytes::copy_from_slice(&[0xee; 32]));
    builder.add_elsewhere(&large);
    let mut first = record(b"k3", Rule::First);
    first.metadata = Bytes::new();
    builder.add_elsewhere(&first);
    let pack = builder.finish(&key(), NAME);
    let object = object(&pack);
    let hex: Vec<String> = object.iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let expected = [
        // Header, body, header of the index.
        "4c4152445041434b0100000000000000",
        "616263",
        "4c504958010000000300000000000000",
        // k1: here.
        "02000400341201015500000000000000",
        "7b68e5cf8b0100000300000000000000",
        "10000000000000000000000000000000",
        "6b316d657461",
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
        // k2: an object.
        "02000400341203025500000000000000",
        "7b68e5cf8b0100000300000000000000",
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
        "6b326d657461",
        "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
        // k3: the first object.
        "02000000341203035500000000000000",
        "7b68e5cf8b0100000000000000000000",
        "00000000000000000000000000000000",
        "6b33",
        // MAC, footer.
        "1b744d8bde8e9a23c25028148513a388996f7c38027702bb98e205830f9c6c2e",
        "1300000000000000",
        "0e010000",
        "4c504e44",
    ];
    println!("{hex}");
    assert_eq!(hex, expected.concat());
}

#[test]
fn an_index_is_only_what_it_is_under_its_own_name_and_key() {
    let (pack, _) = pack_of(&[5]);
    let parse = |key: &MacKey, name: &str| {
        PackIndex::parse(key, name, pack.index_offset, pack.index.clone()).is_ok()
    };
    assert!(parse(&key(), NAME));
    assert!(!parse(&key(), "v1/acme/untrusted/packs/p"));
    assert!(!parse(&MacKey::new([4; 32]), NAME));
}

#[test]
fn no_byte_of_an_index_can_be_changed() {
    let (pack, _) = pack_of(&[5, 0, 9]);
    for at in 0..pack.index.len() {
        let mut index = pack.index.to_vec();
        index[at] ^= 1 << (at % 8);
        let parsed = PackIndex::parse(&key(), NAME, pack.index_offset, index.into());
        assert!(parsed.is_err(), "byte {at}");
    }
}

#[test]
fn a_pack_is_full_by_bytes_by_count_and_by_its_index() {
    let fill = |body: usize, metadata: usize| {
        let mut builder = PackBuilder::new();
        let body = Bytes::from(vec![1; body]);
        let mut count = 0;
        while !builder.is_full() {
            let mut record = record(b"key", Rule::Content);
            record.metadata = vec![2; metadata].into();
            builder.add(record, vec![body.clone()]);
            count += 1;
        }
        let pack = builder.finish(&key(), NAME);
        assert!(pack.index.len() as u64 <= INDEX_BYTES_MAX);
        assert!(read(&pack).records().count() == count);
        count
    };
    assert_eq!(fill(1 << 20, 0), 8);
    assert_eq!(fill(1, 0), PACK_RECORD_COUNT_MAX as usize);
    assert_eq!(fill(1, 60_000), 2 * (1 << 20) / 60_083 + 1);
}

proptest! {
    #[test]
    fn what_goes_into_a_pack_comes_out_of_it(
        lengths in proptest::collection::vec(prop_oneof![
            Just(0_usize), 1_usize..2000, Just(PIECE_BYTES as usize), 1_000_000_usize..2_200_000,
        ], 1..12),
    ) {
        let (pack, entries) = pack_of(&lengths);
        let object = object(&pack);
        let index = read(&pack);
        let whole = PackIndex::of_object(&key(), NAME, &object).unwrap();
        let found: Vec<Record> = index.records().map(|(_, record)| record).collect();
        prop_assert!(found.iter().eq(entries.iter().map(|(record, _)| record)));
        prop_assert!(whole.records().map(|(_, record)| record).eq(found.iter().cloned()));
        for (record, body) in &entries {
            let start = record.offset_in_pack().unwrap() as usize;
            let stored = object.slice(start..start + body.len());
            prop_assert_eq!(&stored, body);
            prop_assert!(record.body_fits(&stored));
            if let Some(last) = body.len().checked_sub(1) {
                let mut wrong = body.to_vec();
                wrong[last] ^= 1;
                prop_assert!(!record.body_fits(&wrong));
                prop_assert!(!record.body_fits(&body[..last]));
            }
        }
    }

    #[test]
    fn regions_are_the_same_for_all_their_records_and_cover_every_body_once(
        lengths in proptest::collection::vec(prop_oneof![
            0_usize..2000, 100_000_usize..600_000, 1_000_000_usize..1_200_000,
        ], 1..20),
    ) {
        let (pack, _) = pack_of(&lengths);
        let index = read(&pack);
        let mut seen = Vec::new();
        for (position, record) in index.records() {
            let region = index.region(position).unwrap();
            prop_assert!(region.positions.contains(&position));
            prop_assert!(
                region.end - region.start <= PIECE_BYTES || region.positions.len() == 1
            );
            let start = record.offset_in_pack().unwrap();
            prop_assert!(region.start <= start && start + record.body_bytes <= region.end);
            if region.positions[0] == position {
                seen.extend(region.positions);
            }
        }
        prop_assert!(seen.into_iter().eq(index.records().map(|(position, _)| position)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_anything(&bytes);
    }

    #[test]
    fn altered_indexes_never_panic_even_if_their_mac_fits(
        at in 0_usize..300, value in any::<u8>(), cut in 0_usize..4,
    ) {
        let (pack, _) = pack_of(&[5, 0, 9]);
        let mut index = pack.index[..pack.index.len() - MAC_BYTES].to_vec();
        index.truncate(index.len() - cut);
        let length = index.len();
        index[at % length] = value;
        read_anything(&index);
    }
}
