//! A folder that all nodes share, as an object store.
//!
//! `object_store` writes a file beside its place, syncs it, and renames it or, for a conditional create, links it there: `link`
//! fails if the name is taken, on one machine and over NFS alike. What this adds:
//!
//! - The folder is never made: a share that is not mounted is not an empty bucket. While it is not there, from the start on or
//!   later, everything is trouble, and an object that is not found is not `NotFound`.
//! - Names come in order, a page at a time, without a look at each of them for each page.
//! - What a writer that died left beside its place is removed when a listing comes by after [`LEFTOVER_AGE`].

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::LIST_NAMES_MAX;

/// No upload takes this long between two writes.
const LEFTOVER_AGE: Duration = Duration::from_hours(24);

const STORE: &str = "folder";

/// See the module.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Set when the folder was first there.
    files: OnceLock<LocalFileSystem>,
    root: Arc<FilePath>,
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

impl Folder {
    pub(crate) fn new(root: &FilePath) -> Self {
        Self {
            files: OnceLock::new(),
            root: root.into(),
        }
    }

    /// The folder's files, if it is there.
    fn files(&self) -> Result<&LocalFileSystem> {
        check(&self.root)?;
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        // What is acknowledged survives the power of this machine and, if the share syncs, of the file server.
        let files = LocalFileSystem::new_with_prefix(&self.root)?.with_fsync(true);
        Ok(self.files.get_or_init(|| files))
    }

    /// `result`, unless it says that something is not there because the folder is not.
    fn if_there<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::NotFound { path, source }) => {
                check(&self.root)?;
                Err(Error::NotFound { path, source })
            }
            other => other,
        }
    }

    fn objects(
        &self,
        prefix: Option<&Path>,
        after: String,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let root = Arc::clone(&self.root);
        stream::try_unfold(Some(after), move |after| {
            let (root, prefix) = (Arc::clone(&root), prefix.clone());
            async move {
                let Some(after) = after else {
                    return Ok::<_, Error>(None);
                };
                let page =
                    tokio::task::spawn_blocking(move || page(&root, &prefix, &after)).await??;
                let next = (page.len() == LIST_NAMES_MAX)
                    .then(|| page.last().map(|last| last.location.to_string()))
                    .flatten();
                Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
            }
        })
        .try_flatten()
        .boxed()
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.files()?.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let files = self.files()?;
        files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let found = self.files()?.get_opts(location, options).await;
        self.if_there(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.files() {
            Ok(files) => files.delete_stream(locations),
            Err(error) => stream::once(async move { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects(prefix, String::new())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects(prefix, offset.to_string())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files()?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.files()?.copy_opts(from, to, options).await;
        self.if_there(copied)
    }
}

fn check(root: &FilePath) -> Result<()> {
    let found = fs::metadata(root).and_then(|found| {
        if found.is_dir() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::NotADirectory))
        }
    });
    found.map_err(|error| {
        failed(io::Error::new(
            error.kind(),
            format!("the folder {} is not there: {error}", root.display()),
        ))
    })
}

fn failed(error: io::Error) -> Error {
    Error::Generic {
        store: STORE,
        source: Box::new(error),
    }
}

/// The first objects under `prefix` whose names come after `after`, in the order of their names.
fn page(root: &FilePath, prefix: &Path, after: &str) -> Result<Vec<ObjectMeta>> {
    check(root)?;
    let mut page = Page {
        after,
        now: SystemTime::now(),
        found: Vec::new(),
    };
    let (folder, names) = match prefix.as_ref() {
        "" => (root.to_path_buf(), String::new()),
        prefix => (root.join(prefix), format!("{prefix}/")),
    };
    page.walk(&folder, &names).map_err(failed)?;
    Ok(page.found)
}

struct Page<'a> {
    after: &'a str,
    now: SystemTime,
    found: Vec<ObjectMeta>,
}

impl Page<'_> {
    /// Adds what is in `folder`, whose objects' names begin with `names`.
    fn walk(&mut self, folder: &FilePath, names: &str) -> io::Result<()> {
        for (name, path) in sorted(folder)? {
            if self.found.len() == LIST_NAMES_MAX {
                return Ok(());
            }
            let whole = format!("{names}{name}");
            if name.ends_with('/') {
                let has_been = self.after > whole.as_str() && !self.after.starts_with(&whole);
                if !has_been {
                    self.walk(&path, &whole)?;
                }
            } else if is_unfinished(&name) {
                self.remove_if_old(&path);
            } else if whole.as_str() > self.after {
                self.add(&path, &whole)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &FilePath, name: &str) -> io::Result<()> {
        let Some(found) = unless_gone(fs::metadata(path))? else {
            return Ok(());
        };
        self.found.push(ObjectMeta {
            location: Path::from(name),
            last_modified: found.modified()?.into(),
            size: found.len(),
            e_tag: None,
            version: None,
        });
        Ok(())
    }

    fn remove_if_old(&self, path: &FilePath) {
        let age = fs::metadata(path)
            .and_then(|found| found.modified())
            .ok()
            .and_then(|modified| self.now.duration_since(modified).ok());
        if age.is_some_and(|age| age > LEFTOVER_AGE) {
            // Another node may have done it, and whatever else is in the way is in the way tomorrow, too.
            let _ = fs::remove_file(path);
        }
    }
}

/// What is in a folder, in the order of the objects' names: a folder counts as its name with the `/` that follows. Nothing if it
/// is not there.
fn sorted(folder: &FilePath) -> io::Result<Vec<(String, PathBuf)>> {
    let Some(entries) = unless_gone(fs::read_dir(folder))? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        // Nothing of ours has another name, or is a link.
        let Ok(mut name) = entry.file_name().into_string() else {
            continue;
        };
        if kind.is_dir() {
            name.push('/');
        } else if !kind.is_file() {
            continue;
        }
        names.push((name, entry.path()));
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether `object_store` gave a file this name that is not in its place yet.
fn is_unfinished(name: &str) -> bool {
    name.split_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
