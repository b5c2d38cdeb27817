//! A receiver's store that fails: objects in memory, by seed late, refused, or landed without an answer.

use super::random::Random;
use crate::clock;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The objects, which outlive every receiver.
#[derive(Clone)]
pub(super) struct Objects {
    stored: Arc<Mutex<Arc<InMemory>>>,
    trouble: Arc<Mutex<Trouble>>,
}

struct Trouble {
    random: Random,
    /// So many of the next puts fail.
    failing: u32,
    full: bool,
    /// The longest that a put takes, in milliseconds.
    slow: u64,
}

impl Objects {
    pub fn new(random: &mut Random) -> Self {
        Self {
            stored: Arc::default(),
            trouble: Arc::new(Mutex::new(Trouble {
                random: random.fork(),
                failing: 0,
                full: false,
                slow: 20,
            })),
        }
    }

    /// The next `puts` fail; some of them land nevertheless.
    pub fn fail(&self, puts: u32) {
        self.trouble.lock().unwrap().failing = puts;
    }

    /// While it is full nothing is stored.
    pub fn set_full(&self, full: bool) {
        self.trouble.lock().unwrap().full = full;
    }

    fn stored(&self) -> Arc<InMemory> {
        self.stored.lock().unwrap().clone()
    }

    /// A copy of the whole store.
    pub fn copy(&self) -> InMemory {
        self.stored().fork()
    }

    /// The store is replaced by an older copy of itself; who does that keeps the tombstones.
    pub async fn restore(&self, copy: InMemory) {
        let erased = Path::from("erased");
        let tombstones = self.stored().list_with_delimiter(Some(&erased)).await;
        for tombstone in tombstones.unwrap().objects {
            let bytes = self.stored().get(&tombstone.location).await.unwrap();
            let bytes = bytes.bytes().await.unwrap();
            copy.put(&tombstone.location, bytes.into()).await.unwrap();
        }
        *self.stored.lock().unwrap() = Arc::new(copy);
    }

    /// The store as one run of a receiver sees it.
    pub fn opened(&self) -> Arc<Store> {
        Arc::new(Store {
            objects: self.clone(),
            alive: AtomicBool::new(true),
        })
    }
}

/// What one run of a receiver sees of [`Objects`].
pub(super) struct Store {
    objects: Objects,
    alive: AtomicBool,
}

impl Store {
    /// The receiver that holds it is gone: what it still asks has no effect and no answer.
    pub fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    async fn answer<T>(&self, answer: T) -> T {
        if !self.alive.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        answer
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

fn failed(source: std::io::Error) -> Error {
    let source = Box::new(source);
    Error::Generic {
        store: "simulated",
        source,
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let (delay, lands_first, fails, full) = {
            let mut trouble = self.objects.trouble.lock().unwrap();
            let fails = trouble.failing > 0;
            trouble.failing = trouble.failing.saturating_sub(1);
            let slow = trouble.slow;
            let delay = trouble.random.millis(0, slow);
            (
                delay,
                trouble.random.per_million(500_000),
                fails,
                trouble.full,
            )
        };
        if full {
            clock::pause(delay).await;
            return self
                .answer(Err(failed(std::io::ErrorKind::StorageFull.into())))
                .await;
        }
        let stored = self.objects.stored();
        let put = stored.put_opts(path, payload, options);
        if lands_first {
            self.answer(()).await;
            let put = put.await;
            clock::pause(delay).await;
            return self
                .answer(match fails {
                    true => Err(failed(std::io::Error::other("no answer"))),
                    false => put,
                })
                .await;
        }
        clock::pause(delay).await;
        self.answer(()).await;
        match fails {
            true => Err(failed(std::io::Error::other("not stored"))),
            false => put.await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let stored = self.objects.stored();
        stored.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.objects.stored().get_opts(path, options).await;
        self.answer(got).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.stored().delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.stored().list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.objects.stored().list_with_delimiter(prefix).await;
        self.answer(listed).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.objects.stored().copy_opts(from, to, options).await;
        self.answer(copied).await
    }
}
