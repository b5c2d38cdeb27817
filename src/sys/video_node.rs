//! VIDIOC_QUERYCAP: what a video node does. The library that we use otherwise takes names of devices for
//! UTF-8 without looking, and the kernel cuts long ones in the middle of a letter.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `struct v4l2_capability`.
#[repr(C)]
struct Capability {
    names: [u8; 80],
    version: u32,
    /// Of the whole device.
    all: u32,
    /// Of this node, where `all` says that it is told.
    node: u32,
    reserved: [u32; 3],
}

/// `_IOR('V', 0, struct v4l2_capability)`.
const QUERYCAP: u32 = (2 << 30) | ((size_of::<Capability>() as u32) << 16) | ((b'V' as u32) << 8);
const VIDEO_CAPTURE: u32 = 0x1;
const CODEC: u32 = 0x8000;
const NODE_IS_TOLD: u32 = 0x8000_0000;

/// Whether the node gives pictures that it captures: not one for metadata, for output or of a codec.
pub fn captures_pictures(node: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(node)?;
    let mut told = Capability {
        names: [0; 80],
        version: 0,
        all: 0,
        node: 0,
        reserved: [0; 3],
    };
    // SAFETY: the descriptor is open, and the pointer is to a structure of the size that the request
    // names and that outlives the call; of it all bits are values.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), QUERYCAP as _, &raw mut told) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = match told.all & NODE_IS_TOLD {
        0 => told.all,
        _ => told.node,
    };
    Ok(flags & VIDEO_CAPTURE != 0 && flags & CODEC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_kernels_and_what_is_no_camera_refuses_it() {
        // As in <linux/videodev2.h> on all our machines.
        assert_eq!(QUERYCAP, 0x8068_5600);
        assert!(captures_pictures(Path::new("/dev/null")).is_err());
        assert!(captures_pictures(Path::new("/dev/no-such-node")).is_err());
    }
}
