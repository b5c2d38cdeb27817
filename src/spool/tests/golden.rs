//! Files of every release, kept as bytes: they stay readable.

use super::*;
