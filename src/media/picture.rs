//! One picture and how its bytes lie.

use super::Monotonic;

/// How a picture's bytes encode its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Planar 4:2:0: all Y, then all U, then all V (V4L2 `YU12`).
    I420,
    /// Planar Y, then interleaved U and V at half resolution (V4L2 `NV12`).
    Nv12,
    /// Packed 4:2:2: Y U Y V (V4L2 `YUYV`).
    Yuyv,
    /// Encoded by the camera (H.264, ITU-T annex B): each picture has its own length.
    H264,
}

impl PixelFormat {
    /// Bytes of a picture of this format (0 where each has its own), `stride` bytes per row of its first plane.
    pub fn picture_bytes(self, stride: usize, height: usize) -> usize {
        match self {
            Self::I420 => stride * height + 2 * (stride / 2 * height.div_ceil(2)),
            Self::Nv12 => stride * height + stride * height.div_ceil(2),
            Self::Yuyv => stride * height,
            Self::H264 => 0,
        }
    }

    /// Bytes per row of the first plane when rows follow each other without padding.
    pub fn tight_stride(self, width: usize) -> usize {
        match self {
            Self::I420 | Self::Nv12 => width,
            Self::Yuyv => 2 * width,
            Self::H264 => 0,
        }
    }
}

/// Size, format and row length of every picture of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PictureLayout {
    /// Points per row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// How the points are encoded.
    pub pixels: PixelFormat,
    /// Bytes per row of the first plane; devices may pad rows.
    pub stride: u32,
}

impl PictureLayout {
    /// A layout without padding.
    pub fn tight(width: u32, height: u32, pixels: PixelFormat) -> Self {
        let stride = pixels.tight_stride(width as usize) as u32;
        Self {
            width,
            height,
            pixels,
            stride,
        }
    }

    /// Bytes of one picture; 0 where each has its own.
    pub fn bytes(&self) -> usize {
        self.pixels
            .picture_bytes(self.stride as usize, self.height as usize)
    }
}

/// One picture, uncompressed or as the camera encoded it, with the time at which it was captured.
#[derive(Clone, Debug)]
pub struct Picture {
    /// When the device captured it, on the monotonic clock.
    pub captured: Monotonic,
    /// The device's own count; a jump means that the device lost pictures.
    pub sequence: u64,
    /// The bytes, laid out as the source's [`PictureLayout`] says; the buffer is recycled.
    pub data: Vec<u8>,
}
