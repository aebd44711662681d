//! Replacements for `std::sync` whose interleavings loom explores.

use std::sync::OnceLock as Cell;

pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};

use self::atomic::{AtomicBool, Ordering};

/// loom implements `SeqCst` for fences, and treats an access that is `SeqCst` as `AcqRel`. Accesses with such a fence before each
/// are sequentially consistent. An access of a weaker order is passed on as it is.
pub(crate) mod atomic {
    use loom::sync::atomic::{self, fence};
    pub(crate) use std::sync::atomic::Ordering;

    fn ordered<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
        if order == Ordering::SeqCst {
            fence(order);
        }
        access()
    }

    macro_rules! atomic {
        ($name:ident, $value:ty, $($access:ident($($argument:ident),*) -> $result:ty,)*) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(atomic::$name);

            impl $name {
                $(pub(crate) fn $access(&self, $($argument: $value,)* order: Ordering) -> $result {
                    ordered(order, || self.0.$access($($argument,)* order))
                })*
            }
        };
    }

    atomic!(AtomicBool, bool, load() -> bool, swap(value) -> bool,);
    atomic!(AtomicU32, u32, load() -> u32, fetch_max(value) -> u32,);
    atomic!(AtomicUsize, usize, load() -> usize, fetch_add(value) -> usize, fetch_sub(value) -> usize,);
}

/// A cell that is set once. loom has none.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    cell: Cell<T>,
}

impl<T> OnceLock<T> {
    /// Only one thread runs at a time, and loom switches threads at its own operations only, so no thread sees the flag without
    /// the value.
    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        match self.is_set.swap(true, Ordering::AcqRel) {
            true => Err(value),
            false => self.cell.set(value),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        match self.is_set.load(Ordering::Acquire) {
            true => self.cell.get(),
            false => None,
        }
    }
}
