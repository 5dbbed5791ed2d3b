//! `onnx-unlearn` takes classes out of a trained ONNX classifier.
//!
//! The story on one page, in the order data flows:
//!
//! 1. [`onnx`] turns the bytes of a model file into a [`graph`] and knows where every weight lies in them.
//! 2. [`train`] asks ONNX Runtime (through [`runtime`]) for the shape of every value in a batch, and writes step
//!    graphs: the forward nodes, their gradients ([`autodiff`], with one rule per operator in [`ops`]) and the optimizer.
//! 3. [`data`] turns image folders and array files into reproducible batches.
//! 4. [`unlearn`] learns error-maximising noise for the classes, impairs and repairs the weights (UNSIR).
//! 5. [`onnx`] patches the new weights into a copy of the source bytes; [`provenance`] stamps them; [`check`] runs the
//!    finished bytes in tract; [`evaluate`] measures them.
//! 6. [`audit`] measures what a model still holds of classes that were taken out, in a command of its own.
//! 7. [`report`] writes down what happened; [`cli`] is the only module that prints or chooses an exit code.

pub mod audit;
pub mod autodiff;
pub mod check;
pub mod cli;
pub mod data;
pub mod evaluate;
pub mod graph;
pub mod onnx;
pub mod ops;
pub mod provenance;
pub mod report;
pub mod runtime;
pub mod tensor;
pub mod train;
pub mod unlearn;

pub use onnx_unlearn_kernel as kernel;
