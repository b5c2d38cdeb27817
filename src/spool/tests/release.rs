//! What leaves, and what does not; the reserve; damage that is found late.

use super::*;
