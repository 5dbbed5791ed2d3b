//! unlearn
