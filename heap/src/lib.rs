//! Keeps down the memory that the C library holds beyond what is in use. Other C libraries than glibc do so by themselves,
//! or have no calls for it: there it does nothing.

/// musl's own allocator has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has the C library look through all that it keeps, and hand whole free pages back. Takes some milliseconds for each
/// 100 MB that it keeps, in which other threads may wait for memory.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called by any thread at any time (malloc_trim(3): MT-Safe), and touches no memory that
    // is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has all threads share at most so many places from which memory is taken; to be called before there are any. By default
/// there are eight for each core, and each keeps what was freed in it: work that wanders over threads then takes its
/// memory once for each of them.
pub fn share_among_threads(places: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt changes a setting of the allocator and touches no memory that is in use.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, libc::c_int::try_from(places.max(1)).unwrap_or(libc::c_int::MAX));
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = places;
}
