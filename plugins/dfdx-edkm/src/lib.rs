//! eDKM for dfdx.
