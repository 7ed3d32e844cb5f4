//! Gives memory that was freed back to the system. Other C libraries than glibc do so by themselves, or have no call
//! for it: there it does nothing.

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
