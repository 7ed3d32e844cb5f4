//! Keeps down the memory that the C library holds beyond what is in use. Other C libraries than glibc do so by themselves,
//! or have no calls for it: there it does nothing.

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

/// Has buffers of `mapped` bytes and more mapped and unmapped by themselves, and up to `kept` bytes of what is freed kept in
/// each place that memory is taken from. By default each freed buffer up to 32 MiB teaches the library that such sizes are
/// worth keeping: after some of 20 MB it keeps half a gigabyte.
pub fn keep_up_to(mapped: usize, kept: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (setting, bytes) in [(libc::M_MMAP_THRESHOLD, mapped), (libc::M_TRIM_THRESHOLD, kept)] {
        // SAFETY: mallopt changes a setting of the allocator and touches no memory that is in use.
        unsafe {
            libc::mallopt(setting, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX));
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = (mapped, kept);
}
