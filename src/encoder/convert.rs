//! Any [`PixelFormat`] as planar 4:2:0, with as little copying as its layout allows.

use super::Error;
use crate::media::{PictureLayout, PixelFormat};
use yuv::{BufferStoreMut, YuvPackedImage, YuvPlanarImageMut, yuyv422_to_yuv420};

/// The three planes of a 4:2:0 picture; U and V have half the points in each direction.
pub(super) struct Planes<'a> {
    pub(super) y: &'a [u8],
    pub(super) u: &'a [u8],
    pub(super) v: &'a [u8],
    /// Bytes per row of Y.
    pub(super) y_stride: usize,
    /// Bytes per row of U and of V.
    pub(super) chroma_stride: usize,
}

/// Converts pictures of one layout; its buffer is used again for each.
pub(super) struct Converter {
    layout: PictureLayout,
    buffer: Vec<u8>,
}

impl Converter {
    /// `layout` has been checked: even sizes, rows that hold their points.
    pub(super) fn new(layout: PictureLayout) -> Self {
        let points = layout.width as usize * layout.height as usize;
        let bytes = match layout.pixels {
            PixelFormat::I420 | PixelFormat::H264 => 0,
            PixelFormat::Nv12 => points / 2,
            PixelFormat::Yuyv => points * 3 / 2,
        };
        Self {
            layout,
            buffer: vec![0; bytes],
        }
    }

    /// The planes of `picture`: borrowed from it where they lie there already.
    pub(super) fn planes<'a>(&'a mut self, picture: &'a [u8]) -> Result<Planes<'a>, Error> {
        let expected = self.layout.bytes();
        let picture = picture.get(..expected).ok_or(Error::Short {
            expected,
            found: picture.len(),
        })?;
        let (width, height) = (self.layout.width as usize, self.layout.height as usize);
        let stride = self.layout.stride as usize;
        match self.layout.pixels {
            PixelFormat::I420 => {
                let (y, chroma) = picture.split_at(stride * height);
                let (u, v) = chroma.split_at(chroma.len() / 2);
                Ok(Planes {
                    y,
                    u,
                    v,
                    y_stride: stride,
                    chroma_stride: stride / 2,
                })
            }
            PixelFormat::Nv12 => {
                let (y, chroma) = picture.split_at(stride * height);
                let (u, v) = self.buffer.split_at_mut(width * height / 4);
                let rows = u
                    .chunks_exact_mut(width / 2)
                    .zip(v.chunks_exact_mut(width / 2));
                for ((u, v), row) in rows.zip(chroma.chunks_exact(stride)) {
                    for ((u, v), pair) in u.iter_mut().zip(v).zip(row.as_chunks::<2>().0) {
                        [*u, *v] = *pair;
                    }
                }
                Ok(Planes {
                    y,
                    u,
                    v,
                    y_stride: stride,
                    chroma_stride: width / 2,
                })
            }
            PixelFormat::Yuyv => {
                let (y, chroma) = self.buffer.split_at_mut(width * height);
                let (u, v) = chroma.split_at_mut(width * height / 4);
                let mut planar = YuvPlanarImageMut {
                    y_plane: BufferStoreMut::Borrowed(&mut *y),
                    y_stride: self.layout.width,
                    u_plane: BufferStoreMut::Borrowed(&mut *u),
                    u_stride: self.layout.width / 2,
                    v_plane: BufferStoreMut::Borrowed(&mut *v),
                    v_stride: self.layout.width / 2,
                    width: self.layout.width,
                    height: self.layout.height,
                };
                let packed = YuvPackedImage {
                    yuy: picture,
                    yuy_stride: self.layout.stride,
                    width: self.layout.width,
                    height: self.layout.height,
                };
                yuyv422_to_yuv420(&mut planar, &packed)
                    .map_err(|error| Error::Unsupported(format!("YUYV of this layout: {error}")))?;
                Ok(Planes {
                    y,
                    u,
                    v,
                    y_stride: width,
                    chroma_stride: width / 2,
                })
            }
            PixelFormat::H264 => Err(Error::Unsupported(
                "pictures that are encoded already".into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The picture in which each point's Y, U and V follow from its place.
    fn expected(x: usize, y: usize) -> [u8; 3] {
        let (cx, cy) = (x / 2, y / 2);
        [
            (7 * x + 13 * y) as u8,
            (3 * cx + 5 * cy) as u8,
            (11 * cx + 2 * cy) as u8,
        ]
    }

    fn drawn(layout: PictureLayout) -> Vec<u8> {
        let (width, height, stride) = (
            layout.width as usize,
            layout.height as usize,
            layout.stride as usize,
        );
        let mut bytes = vec![0xee; layout.bytes()];
        for row in 0..height {
            for x in 0..width {
                let [y, u, v] = expected(x, row);
                let half = stride * height + row / 2 * (stride / 2) + x / 2;
                match layout.pixels {
                    PixelFormat::I420 => {
                        bytes[row * stride + x] = y;
                        bytes[half] = u;
                        bytes[half + stride / 2 * (height / 2)] = v;
                    }
                    PixelFormat::Nv12 => {
                        bytes[row * stride + x] = y;
                        let pair = stride * height + row / 2 * stride + x / 2 * 2;
                        bytes[pair..pair + 2].copy_from_slice(&[u, v]);
                    }
                    PixelFormat::Yuyv => {
                        bytes[row * stride + 2 * x] = y;
                        bytes[row * stride + 2 * x + 1] = if x % 2 == 0 { u } else { v };
                    }
                    PixelFormat::H264 => unreachable!("it has no points"),
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_point_arrives_whatever_the_padding(width in 8u32..100, height in 8u32..50, padding in 0u32..20, pixels in prop::sample::select(vec![PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv])) {
            let mut layout = PictureLayout::tight(width * 2, height * 2, pixels);
            layout.stride += padding * 2;
            let picture = drawn(layout);
            let mut converter = Converter::new(layout);
            let planes = converter.planes(&picture).unwrap();
            for row in 0..layout.height as usize {
                for x in 0..layout.width as usize {
                    let chroma = row / 2 * planes.chroma_stride + x / 2;
                    let found = [planes.y[row * planes.y_stride + x], planes.u[chroma], planes.v[chroma]];
                    prop_assert_eq!(found, expected(x, row), "{} {}", x, row);
                }
            }
            let short = converter.planes(&picture[1..]).err();
            prop_assert_eq!(short, Some(Error::Short { expected: picture.len(), found: picture.len() - 1 }));
        }
    }
}
