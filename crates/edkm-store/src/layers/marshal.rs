//! Marshaling (eDKM, arXiv 2309.00964, section 2): a content that is already stored is not stored again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::{Layer, Origin, Piece};
use crate::digest::Digest;
use crate::lock::lock;
use crate::meter::{Charge, Meter, Side};
use crate::{DType, Held, Placement, Precision, Report, SharedBytes, StoreError};

/// Shares contents. Two saves share when they have the same digest, length, element type, placement and precision; a value
/// that is still alive since an earlier save of it is recognised by its address and not hashed again.
pub(crate) struct Marshal {
    below: Box<dyn Layer>,
    scope: Origin,
    contents: Arc<Mutex<Contents>>,
    meter: Arc<Meter>,
}

/// What makes two records one content. The placement is part of it: if a local record could stand in for a replicated one,
/// one learner would find it without the others and they would wait for its part of a gather that it never joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    digest: Digest,
    len: usize,
    dtype: DType,
    placement: Placement,
    precision: Precision,
}

/// Whether two records with equal bytes are kept alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    address: usize,
    dtype: DType,
    placement: Placement,
    precision: Precision,
}

#[derive(Default)]
struct Contents {
    by_key: HashMap<Key, Weak<Content>>,
    /// Values that were saved. The weak reference proves that the address still belongs to the value: it keeps the
    /// allocation, though not the value, and keeps `Arc::get_mut` from handing out a way to change it.
    by_address: HashMap<Kind, (Weak<dyn SharedBytes>, Weak<Content>)>,
}

/// One stored content, shared by its readers.
struct Content {
    held: OnceLock<Result<Box<dyn Held>, StoreError>>,
    key: Key,
    kinds: Mutex<Vec<Kind>>,
    /// What was rebuilt for a reader that still uses it.
    rebuilt: Mutex<Option<Weak<dyn SharedBytes>>>,
    contents: Arc<Mutex<Contents>>,
    _kept: Charge,
}

impl Drop for Content {
    fn drop(&mut self) {
        let mut contents = lock(&self.contents);
        // Another save of the same content may have taken the place since the last reader let go.
        let dead = |content: &Weak<Content>| content.strong_count() == 0;
        if contents.by_key.get(&self.key).is_some_and(dead) {
            contents.by_key.remove(&self.key);
        }
        for kind in lock(&self.kinds).iter() {
            if contents.by_address.get(kind).is_some_and(|(_, content)| dead(content)) {
                contents.by_address.remove(kind);
            }
        }
    }
}

/// One save of a content.
struct Reader {
    content: Arc<Content>,
    hit: Hit,
    _logical: Charge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hit {
    Found,
    Stored,
}

impl Marshal {
    /// Shares what comes from `scope` and passes the rest on: what was looked at above need not be looked at again.
    pub(crate) fn new(name: &'static str, scope: Origin, below: Box<dyn Layer>) -> Self {
        Self {
            below,
            scope,
            contents: Arc::default(),
            meter: Meter::new(name),
        }
    }

    fn kind(piece: &Piece) -> Kind {
        let record = &piece.record;
        let address = Arc::as_ptr(&record.bytes).cast::<()>() as usize;
        Kind {
            address,
            dtype: record.dtype,
            placement: record.placement,
            precision: record.precision,
        }
    }

    fn key(piece: &mut Piece) -> Key {
        let digest = piece.digest();
        let record = &piece.record;
        let (len, dtype) = (record.len_bytes(), record.dtype);
        Key {
            digest,
            len,
            dtype,
            placement: record.placement,
            precision: record.precision,
        }
    }

    /// The content of the very value that is being saved, if an earlier save of it is still held.
    fn by_address(&self, piece: &Piece) -> Option<Arc<Content>> {
        let contents = lock(&self.contents);
        let (value, content) = contents.by_address.get(&Self::kind(piece))?;
        // A zero-sized value shares its address with others, so the value itself is compared.
        Arc::ptr_eq(&value.upgrade()?, &piece.record.bytes).then(|| content.upgrade())?
    }

    /// The content with this key, made if need be, and the value noted under its address.
    fn by_key(&self, piece: &Piece, key: Key) -> (Arc<Content>, Hit) {
        let mut contents = lock(&self.contents);
        let (content, hit) = match contents.by_key.get(&key).and_then(Weak::upgrade) {
            Some(content) => (content, Hit::Found),
            None => {
                let content = Arc::new(Content {
                    held: OnceLock::new(),
                    key,
                    kinds: Mutex::default(),
                    rebuilt: Mutex::default(),
                    contents: self.contents.clone(),
                    _kept: self.meter.charge(Side::Kept, key.len),
                });
                contents.by_key.insert(key, Arc::downgrade(&content));
                (content, Hit::Stored)
            }
        };
        let kind = Self::kind(piece);
        let value = Arc::downgrade(&piece.record.bytes);
        contents.by_address.insert(kind, (value, Arc::downgrade(&content)));
        drop(contents);
        lock(&content.kinds).push(kind);
        (content, hit)
    }
}

impl Layer for Marshal {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        if piece.origin != self.scope {
            return self.below.save(piece);
        }
        self.meter.saved();
        let (content, hit) = self.meter.packing(|| match self.by_address(&piece) {
            Some(content) => (content, Hit::Found),
            None => {
                let key = Self::key(&mut piece);
                self.by_key(&piece, key)
            }
        });
        if hit == Hit::Found {
            self.meter.hit();
        }
        let logical = self.meter.charge(Side::Logical, piece.bytes().len());
        // Outside the lock: a second saver of the same content waits here for the first, others do not.
        if let Err(error) = content.held.get_or_init(|| self.below.save(piece)) {
            return Err(error.clone());
        }
        Ok(Box::new(Reader {
            content,
            hit,
            _logical: logical,
        }))
    }

    fn quote(&self, mut piece: Piece) -> Result<usize, StoreError> {
        if piece.origin != self.scope {
            return self.below.quote(piece);
        }
        if self.by_address(&piece).is_some() {
            return Ok(0);
        }
        let key = Self::key(&mut piece);
        let known = lock(&self.contents)
            .by_key
            .get(&key)
            .is_some_and(|content| content.strong_count() > 0);
        if known {
            Ok(0)
        } else {
            self.below.quote(piece)
        }
    }

    fn report(&self, report: &mut Report) {
        report.layers.push(self.meter.report());
        self.below.report(report);
    }
}

impl Reader {
    fn held(&self) -> Result<&dyn Held, StoreError> {
        match self.content.held.get() {
            Some(Ok(held)) => Ok(&**held),
            Some(Err(error)) => Err(error.clone()),
            None => unreachable!("a reader is made after its content"),
        }
    }
}

impl Held for Reader {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let held = self.held()?;
        // Whether a reader still uses its bytes may differ between learners, and all must join a gather or none.
        if held.gathers() {
            return held.fetch();
        }
        // Under the lock: a second reader waits for what the first is having rebuilt.
        let mut rebuilt = lock(&self.content.rebuilt);
        if let Some(bytes) = rebuilt.as_ref().and_then(Weak::upgrade) {
            return Ok(bytes);
        }
        let bytes = held.fetch()?;
        // What has other owners was not rebuilt but kept as it is, and is to be verified each time.
        *rebuilt = (Arc::strong_count(&bytes) == 1).then(|| Arc::downgrade(&bytes));
        Ok(bytes)
    }

    fn kept_bytes(&self) -> usize {
        match self.hit {
            Hit::Found => 0,
            Hit::Stored => self.held().map_or(0, |held| held.kept_bytes()),
        }
    }

    fn warm(&self) {
        if let Ok(held) = self.held() {
            held.warm();
        }
    }

    fn gathers(&self) -> bool {
        self.held().is_ok_and(|held| held.gathers())
    }
}
