//! A store that fails or crashes at the n-th thing that is asked of it, and comes back with exactly
//! what it had made durable.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::sync::{Arc, Mutex, MutexGuard};

/// What happens at the n-th operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, once, without effect.
    Fails,
    /// It takes effect, and is reported as failed.
    FailsLate,
    /// It is told that the name is taken, though nothing is there: two writers met, and the store
    /// took the bytes of neither.
    Collides,
    /// The process is gone before it.
    Crashes,
    /// The process is gone after it.
    CrashesLate,
    /// The same as the first, and no deletion had reached the disk.
    CrashesUndone,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<(Fault, u64)>,
    operations: u64,
    dead: bool,
    deleted: Vec<(Path, Bytes)>,
    beside: Option<(u64, Path)>,
}

/// The store; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Twin {
    objects: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

fn failed() -> Error {
    Error::Generic {
        store: "twin",
        source: "planted".into(),
    }
}

impl Twin {
    /// One that meets `fault` at operation `at`.
    pub fn with(fault: Fault, at: u64) -> Self {
        let twin = Self::default();
        twin.state().fault = Some((fault, at));
        twin
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Another program makes the object `name` just before operation `at`.
    pub fn made_beside(&self, at: u64, name: &str) {
        self.state().beside = Some((at, Path::from(name)));
    }

    /// What was asked of it so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// True once the fault has come.
    pub fn struck(&self) -> bool {
        self.state().fault.is_none()
    }

    /// True while the process is gone.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The machine is up again; nothing fails any more.
    pub async fn restart(&self) {
        let undone = {
            let mut state = self.state();
            (state.dead, state.fault) = (false, None);
            std::mem::take(&mut state.deleted)
        };
        for (path, bytes) in undone {
            self.objects.put(&path, bytes.into()).await.unwrap();
        }
    }

    /// Counts an operation: an error when it fails before its effect, true when after it.
    fn step(&self) -> Result<bool> {
        let mut state = self.state();
        if state.dead {
            return Err(failed());
        }
        let number = state.operations;
        if let Some((_, path)) = state.beside.take_if(|(at, _)| *at == number) {
            let made = self.objects.put(&path, "{}".into()).now_or_never();
            made.expect("memory does not wait")?;
        }
        state.operations += 1;
        let Some((fault, _)) = state.fault.filter(|(_, at)| *at == number) else {
            return Ok(false);
        };
        state.fault = None;
        if fault != Fault::CrashesUndone {
            state.deleted.clear();
        }
        state.dead = !matches!(fault, Fault::Fails | Fault::FailsLate | Fault::Collides);
        match fault {
            Fault::Collides => Err(Error::AlreadyExists {
                path: "twin".into(),
                source: "planted".into(),
            }),
            Fault::FailsLate | Fault::CrashesLate => Ok(true),
            Fault::Fails | Fault::Crashes | Fault::CrashesUndone => Err(failed()),
        }
    }

    async fn around<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let fails = self.step()?;
        let done = work.await;
        if fails { Err(failed()) } else { done }
    }

    fn note_deleted(&self, path: &Path, bytes: Bytes) {
        let mut state = self.state();
        if matches!(state.fault, Some((Fault::CrashesUndone, _))) {
            state.deleted.push((path.clone(), bytes));
        }
    }

    async fn delete_one(&self, path: Path) -> Result<Path> {
        let work = async {
            let bytes = self.objects.get(&path).await?.bytes().await?;
            self.note_deleted(&path, bytes);
            self.objects.delete(&path).await
        };
        self.around(work).await.map(|()| path)
    }
}

impl std::fmt::Display for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("twin")
    }
}

#[async_trait]
impl ObjectStore for Twin {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.around(self.objects.put_opts(path, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.around(self.objects.put_multipart_opts(path, options))
            .await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.around(self.objects.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let twin = self.clone();
        paths
            .then(move |path| {
                let twin = twin.clone();
                async move { twin.delete_one(path?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.step() {
            Ok(false) => self.objects.list(prefix),
            _ => stream::once(async { Err(failed()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.around(self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(self.objects.copy_opts(from, to, options)).await
    }
}
