//! The globals that a pickle may name, and what becomes of the others.
//!
//! A pickle names functions and classes by module and name (`os system`), and Python calls what it finds there. Nothing
//! here is called; but a name that no checkpoint needs is an error all the same, so that a file made to do harm is
//! named as such and not read as a model. Names of packages that belong to the program that saved the file are told
//! apart from those that do harm ([`is_harmful`]): the first is a file from elsewhere, the second an attack.

use crate::checkpoint::dtype::Dtype;

/// The globals that a checkpoint may name. None is ever called: they are names in a tree of data.
/// Beside them go torch's types of numbers and storages, and its modules ([`MODULES`]).
pub const ALLOWED: [&str; 31] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter",
    "torch.Tensor",
    "torch.Size",
    "torch.device",
    "torch.storage.UntypedStorage",
    "torch.FloatTensor",
    // What trainers put beside the tensors: settings, counters, losses.
    "argparse.Namespace",
    "builtins.set",
    "__builtin__.set",
    "builtins.frozenset",
    "__builtin__.frozenset",
    "builtins.slice",
    "builtins.complex",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "datetime.datetime",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "_codecs.encode",
];

/// Where torch's modules are defined. Of such an object, and of [`NAMESPACE`], the state is kept: there
/// are its parameters.
pub const MODULES: &str = "torch.nn.modules.";
/// Settings by name.
pub const NAMESPACE: &str = "argparse.Namespace";

/// Packages that do harm when a pickle has them called; what others define are objects of the program
/// that wrote the file.
const HARMFUL: [&str; 23] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "subprocess",
    "sys",
    "builtins",
    "__builtin__",
    "importlib",
    "runpy",
    "socket",
    "shutil",
    "ctypes",
    "pty",
    "webbrowser",
    "marshal",
    "types",
    "operator",
    "functools",
    "commands",
    "pickle",
    "code",
];

/// Whether a checkpoint may name this global.
pub fn is_allowed(full: &str) -> bool {
    ALLOWED.contains(&full)
        || full.starts_with(MODULES)
        || Dtype::of_torch(full).or_else(|| Dtype::of_storage(full)).is_some()
}

/// Whether what a module defines does harm when it is called.
pub fn is_harmful(module: &str) -> bool {
    HARMFUL.contains(&module.split('.').next().unwrap_or_default())
}
