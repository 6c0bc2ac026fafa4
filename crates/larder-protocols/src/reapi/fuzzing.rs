//! What must hold of any bytes that this folder reads; the targets of the fuzzer call it.

use bytes::Bytes;
use larder_cache::Encoding;
use larder_model::{BlobHash, Digest, DigestFunction};
use larder_proto::{Message, bytestream, reapi as re};

use super::action_result::{Listing, References, TreeScan};
use super::fields::Malformed;
use super::resource_name::ResourceName;
use super::write_request::{Field, WriteReader};

/// A name that is read has a shortest form, which names the same blob to readers and to writers.
pub fn resource_name(name: &str) {
    for read in [ResourceName::of_read(name), ResourceName::of_write(name)] {
        let Ok(read) = read else {
            continue;
        };
        let kind = match read.encoding {
            Encoding::Identity => "blobs",
            Encoding::Zstd => "compressed-blobs/zstd",
        };
        let function = match read.digest.function() {
            DigestFunction::Sha256 => "",
            DigestFunction::Blake3 => "blake3/",
        };
        let (hash, size) = (read.digest.hash(), read.digest.size());
        let short = format!("{kind}/{function}{hash}/{size}");
        let upload = format!("uploads/uuid/{short}");
        for again in [
            ResourceName::of_read(&short),
            ResourceName::of_write(&upload),
        ] {
            let again = again.expect("the form of the specification");
            assert_eq!(
                (again.digest, again.encoding),
                (read.digest, read.encoding),
                "{name:?}"
            );
        }
    }
}

/// However a message of an upload is cut, its fields are the same, and those that a decoder sees.
pub fn write_request(message: &[u8], cuts: &[u8]) {
    let whole = write_fields(message, &[]);
    assert_eq!(write_fields(message, cuts), whole);
    let decoded = bytestream::WriteRequest::decode(message);
    let (Ok(fields), Ok(decoded)) = (whole, decoded) else {
        return;
    };
    let (mut name, mut offset, mut finish) = (String::new(), 0, false);
    for field in fields {
        match field {
            Field::ResourceName(text) => name = text,
            Field::WriteOffset(number) => offset = number,
            Field::FinishWrite(is) => finish = is,
            Field::Data(_) => {}
        }
    }
    let sent = (decoded.write_offset, decoded.finish_write);
    assert_eq!((offset, finish), sent);
    // An empty name is none, and takes no other's place.
    if !decoded.resource_name.is_empty() {
        assert_eq!(name, decoded.resource_name);
    }
}

fn write_fields(message: &[u8], cuts: &[u8]) -> Result<Vec<Field>, Malformed> {
    let (mut reader, mut fields) = (WriteReader::new(), Vec::new());
    for piece in pieces(message, cuts) {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(field) = reader.next(&mut piece)? {
            match (fields.last_mut(), field) {
                (Some(Field::Data(before)), Field::Data(data)) => {
                    *before = [&before[..], &data[..]].concat().into();
                }
                (_, field) => fields.push(field),
            }
        }
    }
    reader.end()?;
    Ok(fields)
}

/// An action result refers to the blobs that a decoder sees in it.
pub fn action_result(message: &[u8]) {
    for function in DigestFunction::ALL {
        let found = References::of(function, message);
        let decoded = re::ActionResult::decode(message);
        let (Ok(found), Ok(decoded)) = (found, decoded) else {
            continue;
        };
        let files = decoded.output_files.iter();
        let files = files.filter(|file| file.contents.is_empty());
        let directories = decoded.output_directories.iter();
        let directories = directories.flat_map(|it| [&it.tree_digest, &it.root_directory_digest]);
        let none = re::Digest::default();
        let streams = [&decoded.stdout_digest, &decoded.stderr_digest];
        let streams = streams.into_iter().flatten().filter(|it| **it != none);
        let seen = files
            .filter_map(|file| file.digest.as_ref())
            .chain(directories.flatten())
            .chain(streams);
        let seen: Vec<Digest> = seen.map(|it| digest(function, it)).collect();
        assert_eq!(sorted(found.blobs), sorted(seen));
    }
}

/// However a tree is cut, it has the same files, and those that a decoder sees.
pub fn tree(message: &[u8], cuts: &[u8]) {
    let function = DigestFunction::Sha256;
    let whole = tree_files(function, message, &[]);
    assert_eq!(tree_files(function, message, cuts), whole);
    let (Ok(found), Ok(decoded)) = (whole, re::Tree::decode(message)) else {
        return;
    };
    let directories = decoded.root.iter().chain(&decoded.children);
    let files = directories.flat_map(|directory| &directory.files);
    let seen = files.filter_map(|file| file.digest.as_ref());
    let seen: Vec<Digest> = seen.map(|it| digest(function, it)).collect();
    assert_eq!(sorted(found), sorted(seen));
}

fn tree_files(
    function: DigestFunction,
    message: &[u8],
    cuts: &[u8],
) -> Result<Vec<Digest>, Malformed> {
    let (mut scan, mut listing) = (TreeScan::new(function), Listing::default());
    for piece in pieces(message, cuts) {
        scan.push(piece, &mut listing)?;
    }
    scan.finish()?;
    Ok(listing.files)
}

/// The message in pieces of these lengths, and what is left.
fn pieces<'m>(message: &'m [u8], cuts: &[u8]) -> Vec<&'m [u8]> {
    let (mut rest, mut pieces) = (message, Vec::with_capacity(cuts.len() + 1));
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

fn digest(function: DigestFunction, sent: &re::Digest) -> Digest {
    let hash = BlobHash::from_hex(sent.hash.as_bytes()).expect("a hash, for it was read");
    Digest::new(function, hash, sent.size_bytes).expect("a digest, for it was read")
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable();
    digests
}
