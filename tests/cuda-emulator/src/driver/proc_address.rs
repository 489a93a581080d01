//! `cuGetProcAddress`: exported functions by name.

use super::status::{Answer, Status};
use super::{exports, put, put_if_wanted, string};
use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::sync::LazyLock;

static ADDRESSES: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    let lists = [
        super::capture::exports(),
        super::context::exports(),
        super::copy::exports(),
        super::device::exports(),
        super::event::exports(),
        super::function::exports(),
        super::graph::exports(),
        super::graph_nodes::exports(),
        super::launch::exports(),
        super::memory::exports(),
        super::module::exports(),
        super::occupancy::exports(),
        super::pinned::exports(),
        super::pool::exports(),
        super::stream::exports(),
        super::stubs::exports(),
        exports(),
    ];
    lists.into_iter().flatten().collect()
});

/// The newest version of a function that is emulated or at least exported.
fn address(name: &str) -> Option<usize> {
    ["_v4", "_v3", "_v2", ""].iter().find_map(|version| ADDRESSES.get(format!("{name}{version}").as_str())).copied()
}

/// # Safety
/// The pointers are the caller's, by the contract of the C API.
unsafe fn find(name: *const c_char, out: *mut usize, state: *mut c_int) -> Answer {
    const NOT_FOUND: c_int = 1;
    // SAFETY: by the contract of this function.
    unsafe {
        let found = address(&string(name)?);
        put(out, found.unwrap_or(0))?;
        put_if_wanted(state, if found.is_some() { 0 } else { NOT_FOUND });
        found.map(|_| ()).ok_or(Status::NOT_FOUND)
    }
}

exports! {
    [early] fn cuGetProcAddress(name: *const c_char, out: *mut usize, _version: c_int, _flags: u64) |_d| {
        // SAFETY: the caller's pointers, by the contract of the C API; so in the function below.
        unsafe { find(name, out, std::ptr::null_mut()) }
    }
    [early] fn cuGetProcAddress_v2(name: *const c_char, out: *mut usize, _version: c_int, _flags: u64, state: *mut c_int) |_d| {
        unsafe { find(name, out, state) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_versions_are_found() {
        assert_eq!(address("cuMemAlloc"), ADDRESSES.get("cuMemAlloc_v2").copied());
        assert_eq!(address("cuInit"), ADDRESSES.get("cuInit").copied());
        assert!(address("cuInit").is_some() && address("cuNothing").is_none());
    }

    #[test]
    fn what_is_exported_is_named_as_the_driver_names_it() {
        let driver_like = |name: &str| name.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
        let strange: Vec<_> = ADDRESSES.keys().filter(|name| !driver_like(name)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}
