//! `regguf quantize`: called as llama-quantize is, and from any model file into any container.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Arg, ArgAction, ArgMatches};

use super::{
    Globals, json, open::input, print_folded, progress::Bar, remark, text,
    write::make_output_folder,
};
use crate::{
    bytes::read_text,
    change::report::Detail,
    change::{
        self, Plan,
        choose::{
            ftype::FileType,
            mix::{Pattern, TypeName, fallback_type, type_name},
            target_size::Goal,
        },
        quantize::{self, Options},
        report::Report,
    },
    check::pair::prove::proof,
    cli::advice,
    container::imatrix::Importance,
    error::{Error, Result},
    limits::Limits,
    model::Value,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  regguf quantize model-f16.gguf Q4_K_M
  regguf quantize --imatrix imatrix.dat model-f16.gguf model-iq2_m.gguf IQ2_M 8
  regguf quantize model-f16.gguf --type q4_0,q5_1,q8_0
  regguf quantize model-f16.gguf small.gguf --target-size 4.5G
  regguf quantize Llama-3.2-1B/ llama-3.2-1b.gguf Q4_K_M
  regguf quantize --to ggjt-v1 ggml-model-f16.bin old.bin q4_0

Types, by name in any case or by number:
  0 F32  1 F16  32 BF16  2 Q4_0  3 Q4_1  8 Q5_0  9 Q5_1  7 Q8_0  40 Q1_0
  41 Q2_0  10 Q2_K  21 Q2_K_S  11 Q3_K_S  12 Q3_K_M  13 Q3_K_L  14 Q4_K_S
  15 Q4_K_M  16 Q5_K_S  17 Q5_K_M  18 Q6_K  24 IQ1_S  31 IQ1_M  19 IQ2_XXS
  20 IQ2_XS  28 IQ2_S  29 IQ2_M  23 IQ3_XXS  22 IQ3_XS  26 IQ3_S  27 IQ3_M
  25 IQ4_NL  30 IQ4_XS  36 TQ1_0  37 TQ2_0  38 MXFP4_MOE  COPY (only copies)
  with --to ggjt-v1 also Q4_2 and Q4_3")]
pub struct Args {
    /// The model or the folder of a checkpoint, the file to write [default: named after the model, beside
    /// it], the type, and the number of threads
    #[arg(
        value_name = "MODEL [OUT] TYPE [NTHREADS]",
        required = true,
        num_args = 1..=4,
        allow_negative_numbers = true
    )]
    words: Vec<OsString>,
    /// Types to make in one pass over the model, instead of TYPE; OUT is a folder if there are several
    #[arg(long = "type", value_name = "TYPE,TYPE", value_delimiter = ',', value_parser = super::words::Words(super::words::types), hide_possible_values = true)]
    types: Vec<String>,
    /// Choose the types of tensors so that the file fits this size (4.5G, 4200Mi), instead of TYPE
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["types", "target_bpw"])]
    target_size: Option<String>,
    /// Choose the types of tensors for this many bits per weight, instead of TYPE
    #[arg(long, value_name = "BITS", conflicts_with = "types")]
    target_bpw: Option<String>,
    /// How an older container's type is made, where its programs did it in several ways
    #[arg(long, value_name = "NAME", requires = "to")]
    recipe: Option<String>,
    /// Quantize tensors that are quantized already; they lose twice
    #[arg(long)]
    allow_requantize: bool,
    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Quantize all tensors to the same type, without the type's mixture
    #[arg(long)]
    pure: bool,
    /// Importance matrix, GGUF or the older .dat
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// The type of tensors that there is no imatrix data for, where their own type needs it
    #[arg(long, value_name = "TYPE", value_parser = fallback_type)]
    fallback_type: Option<TypeName>,
    /// Use the imatrix data of tensors whose name contains this only; repeatable
    #[arg(long, value_name = "NAME", conflicts_with = "exclude_weights")]
    include_weights: Vec<String>,
    /// Use no imatrix data for tensors whose name contains this; repeatable
    #[arg(long, value_name = "NAME")]
    exclude_weights: Vec<String>,
    /// The type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = type_name)]
    output_tensor_type: Option<TypeName>,
    /// The type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = type_name)]
    token_embedding_type: Option<TypeName>,
    #[command(flatten)]
    tensor_types: TensorTypes,
    /// Leave out these layers; the others are numbered anew
    #[arg(long, value_name = "N,N", value_delimiter = ',', conflicts_with = "prove")]
    prune_layers: Vec<u64>,
    /// Write the same shards as the input has
    #[arg(long, conflicts_with = "prove")]
    keep_split: bool,
    /// Set a metadata key: KEY=int:N, float:X, bool:true or str:TEXT; repeatable
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = key_value)]
    override_kv: Vec<(String, Value)>,
    /// Accepted for llama-quantize's sake: memory stays small at any size
    #[arg(long, value_name = "MiB", hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    max_buffer_size: Option<u64>,
    /// Measure the error of every tensor (always done when requantizing)
    #[arg(long)]
    measure: bool,
    #[command(flatten)]
    open: super::open::OpenArgs,
    #[command(flatten)]
    write: super::write::WriteArgs,
}

/// `--tensor-type` and `--tensor-type-file` in the order in which they were typed: the first match counts.
#[derive(Debug)]
struct TensorTypes(Vec<TensorType>);

/// One use of either flag.
#[derive(Clone, Debug)]
enum TensorType {
    Pair(Pattern, TypeName),
    File(PathBuf),
}

impl TensorTypes {
    /// All pairs, those in files too.
    fn read(&self) -> Result<Vec<(Pattern, TypeName)>> {
        let mut all = Vec::new();
        for item in &self.0 {
            match item {
                TensorType::Pair(pattern, quant) => all.push((pattern.clone(), *quant)),
                TensorType::File(path) => {
                    for pair in read_text(path)?.split_whitespace() {
                        all.push(tensor_type(pair).map_err(Error::usage)?);
                    }
                }
            }
        }
        Ok(all)
    }
}

impl clap::Args for TensorTypes {
    fn augment_args(command: clap::Command) -> clap::Command {
        let pair = |text: &str| tensor_type(text).map(|(p, q)| TensorType::Pair(p, q));
        let file = |path: &str| Ok::<_, String>(TensorType::File(path.into()));
        let flag = |name| Arg::new(name).long(name).action(ArgAction::Append);
        command
            .arg(flag("tensor-type").value_name("REGEX=TYPE").value_parser(pair).help(
                "The type of tensors whose name matches a pattern; the first that matches counts; \
                 repeatable",
            ))
            .arg(
                flag("tensor-type-file")
                    .value_name("FILE")
                    .value_parser(file)
                    .help("A file with such pairs, separated by white space"),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        TensorTypes::augment_args(command)
    }
}

// Two flags, one list: the first pattern that matches counts, so their places on the command line are needed, which
// derived arguments do not keep.
impl clap::FromArgMatches for TensorTypes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<TensorTypes, clap::Error> {
        let mut placed: Vec<(usize, TensorType)> = Vec::new();
        for name in ["tensor-type", "tensor-type-file"] {
            let places = matches.indices_of(name).into_iter().flatten();
            placed.extend(places.zip(matches.get_many(name).into_iter().flatten().cloned()));
        }
        placed.sort_by_key(|(place, _)| *place);
        Ok(TensorTypes(placed.into_iter().map(|(_, item)| item).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = TensorTypes::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The call as meant.
///
/// ```text
/// model.gguf q4_k_m               MODEL TYPE              the output is named after both
/// model.gguf q4_k_m 8             MODEL TYPE NTHREADS
/// model.gguf out.gguf q4_k_m 8    MODEL OUT TYPE NTHREADS
/// model.gguf out.gguf 8           MODEL OUT NTHREADS      with --type or a goal
/// 7B                              models/7B, as quantize.py
/// ```
struct Call {
    input: PathBuf,
    output: Option<PathBuf>,
    /// Names or numbers of file types; none where a goal chooses them.
    types: Vec<String>,
    /// As many as the command has, where nothing is said.
    threads: Option<usize>,
}

/// Runs it.
pub fn run(args: &Args, globals: &Globals) -> Result<ExitCode> {
    let goal = match (&args.target_size, &args.target_bpw) {
        (Some(size), _) => Some(Goal::size(size)?),
        (None, Some(bits)) => Some(Goal::bits(bits)?),
        (None, None) => None,
    };
    // Only words that can mean nothing else are taken so: a size, a folder of that name in models/, and no such file.
    let call = match as_in_2023(&args.words).filter(|_| args.types.is_empty() && goal.is_none()) {
        Some(call) => {
            let (input, output) = (call.input.display(), call.output.as_deref().map(Path::display));
            let output = output.map(|output| output.to_string()).unwrap_or_default();
            remark(globals, &format!("note: as quantize.py: {input} to {output}, Q4_0"));
            call
        }
        None => Call::read(&args.words, &args.types, goal.is_some())?,
    };
    let output = match (&args.write.output, call.output) {
        (Some(flag), Some(_)) => {
            let flag = flag.display();
            return Err(Error::usage(format!("-o {flag}: the output is named twice")));
        }
        (flag, word) => flag.clone().or(word),
    };
    let call = Call { input: input(&call.input, globals), output, ..call };
    let tensor_types = args.tensor_types.read()?;
    let mut importance = Importance::default();
    if let Some(path) = &args.imatrix {
        importance = Importance::read(path, &Limits::DEFAULT)?;
        importance.retain(&args.include_weights, &args.exclude_weights);
    }
    let stated = args.write.stated.stated();
    let model = args.open.open_any(&call.input, &stated)?;
    let types = call.types.iter().map(|word| FileType::parse(word)).collect::<Result<_>>()?;
    let options = Options {
        types,
        goal,
        output: call.output,
        to: args.write.to.clone(),
        stated,
        recipe: args.recipe.clone(),
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        allow_requantize: args.allow_requantize,
        keep_split: args.keep_split,
        keep_nan: args.write.keep_nan,
        measure: args.measure,
        output_type: args.output_tensor_type,
        embedding_type: args.token_embedding_type,
        tensor_types,
        importance,
        fallback_type: args.fallback_type,
        prune: args.prune_layers.iter().copied().collect(),
        overrides: args.override_kv.clone(),
    };
    let (model, plans) = quantize::plan(model, &options)?;
    let outcomes = match args.write.dry_run() {
        true => Vec::new(),
        false => {
            let _made = make_output_folder(options.output.as_deref(), options.types.len())?;
            let total = plans.iter().map(|plan| plan.layout.total).sum();
            let bar = Bar::new(globals, total);
            // The number behind the type is that of llama-quantize; without one the command's own threads do it.
            with_threads(call.threads, || {
                let proof = proof(&model, args.write.proof(), &bar);
                change::carry_proved(&model, &plans, args.write.commit(), &bar, &proof)
            })?
        }
    };
    let report =
        |(i, plan): (usize, &Plan)| advice::report(Report::new(&model, plan, outcomes.get(i)));
    let reports: Vec<Report> = plans.iter().enumerate().map(report).collect();
    match args.write.json() {
        true => json::print(&reports)?,
        false => {
            // Which mixture a tensor got is what a plan is looked at for.
            let detail = if args.write.dry_run() { Detail::Tensors } else { globals.detail() };
            for report in &reports {
                print_folded(&report.text(detail, text::width()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `quantize 7B`, as quantize.sh and quantize.py of spring 2023 were called: `models/7B/ggml-model-f16.bin`
/// to Q4_0.
fn as_in_2023(words: &[OsString]) -> Option<Call> {
    let [size] = words else { return None };
    let folder = Path::new("models").join(size);
    let known = ["7B", "13B", "30B", "65B"].iter().any(|known| size == known);
    if !known || Path::new(size).exists() || !folder.is_dir() {
        return None;
    }
    Some(Call {
        input: folder.join("ggml-model-f16.bin"),
        output: Some(folder.join("ggml-model-q4_0.gguf")),
        types: vec!["q4_0".to_owned()],
        threads: None,
    })
}

impl Call {
    /// Reads the words: the second is the type if it is one and nothing says that it is not, else the output. So a file
    /// that is called as a type is called, `q8_0` for example, needs a path: `./q8_0`.
    ///
    /// # Errors
    /// Where a word is missing or one is left over.
    fn read(words: &[OsString], types: &[String], goal: bool) -> Result<Call> {
        let usage = |what: &str| Error::usage(format!("{what}; see regguf quantize --help"));
        let mut rest = words.iter();
        let input = rest.next().map(PathBuf::from).ok_or_else(|| usage("name a model"))?;
        let mut call = Call { input, output: None, types: types.to_vec(), threads: None };
        let mut rest = rest.as_slice();
        if types.is_empty() && !goal {
            let is_type = |w: &OsString| w.to_str().is_some_and(FileType::is_known);
            if let [out, next @ ..] = rest
                && !is_type(out)
                && !next.is_empty()
            {
                call.output = Some(out.into());
                rest = next;
            }
            let [name, next @ ..] = rest else { return Err(usage("name a type, as Q4_K_M")) };
            call.types.push(name.to_string_lossy().into_owned());
            rest = next;
        } else if let [out, next @ ..] = rest
            && out.to_str().is_none_or(|w| w.parse::<usize>().is_err())
        {
            call.output = Some(out.into());
            rest = next;
        }
        if let [threads, next @ ..] = rest {
            let count = threads.to_str().and_then(|w| w.parse::<isize>().ok());
            let count = count.ok_or_else(|| {
                usage(&format!("{}: the number of threads is wanted here", threads.display()))
            })?;
            // Zero and less mean all of them, as in llama-quantize.
            call.threads = usize::try_from(count).ok().filter(|n| *n > 0);
            rest = next;
        }
        match rest {
            [] => Ok(call),
            [word, ..] => Err(usage(&format!("{}: one word too many", word.display()))),
        }
    }
}

/// Runs `job` on `count` threads, where that is said; never on more than there are processors.
fn with_threads<T: Send>(count: Option<usize>, job: impl FnOnce() -> T + Send) -> T {
    let pool = count.and_then(|n| {
        let threads = super::within_processors(Some(n));
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()
    });
    match pool {
        Some(pool) => pool.install(job),
        None => job(),
    }
}

/// `NAME=TYPE`; names are matched in lower case, as llama-quantize does.
fn tensor_type(pair: &str) -> Result<(Pattern, TypeName), String> {
    let wanted = || format!("{pair}: wanted NAME=TYPE, as attn_q=q8_0");
    let (name, quant) = pair.rsplit_once('=').ok_or_else(wanted)?;
    if name.is_empty() {
        return Err(wanted());
    }
    let pattern = Pattern::new(&name.to_lowercase()).map_err(|e| format!("{name}: {e}"))?;
    Ok((pattern, type_name(quant)?))
}

/// `KEY=TYPE:VALUE`, read as llama.cpp `string_parse_kv_override` reads it; whole numbers are stored
/// as u32 without their sign, as llama-quantize stores them.
fn key_value(text: &str) -> Result<(String, Value), String> {
    let wanted = || format!("{text}: wanted KEY=TYPE:VALUE with int, float, bool or str");
    let (key, value) = text.split_once('=').ok_or_else(wanted)?;
    let (kind, value) = value.split_once(':').ok_or_else(wanted)?;
    if key.is_empty() {
        return Err(wanted());
    }
    let bad = |e: &dyn std::fmt::Display| format!("{text}: {e}");
    let value = match kind {
        "int" => {
            let n: i64 = value.parse().map_err(|e| bad(&e))?;
            Value::U32(u32::try_from(n.unsigned_abs()).map_err(|e| bad(&e))?)
        }
        "float" => Value::F32(value.parse().map_err(|e| bad(&e))?),
        "bool" => Value::Bool(value.parse().map_err(|e| bad(&e))?),
        "str" if value.len() > 127 => return Err(bad(&"at most 127 bytes")),
        "str" => Value::String(value.as_bytes().to_vec()),
        _ => return Err(wanted()),
    };
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<(Option<String>, String, Option<usize>)> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let call = Call::read(&words, &[], false).ok()?;
        assert_eq!(call.input, Path::new("in.gguf"));
        let output = call.output.map(|o| o.display().to_string());
        Some((output, call.types.join(","), call.threads))
    }

    #[test]
    fn the_words_stand_where_llama_quantize_has_them() {
        let some = |out: Option<&str>, word: &str, threads| {
            Some((out.map(str::to_owned), word.to_owned(), threads))
        };
        assert_eq!(read(&["in.gguf", "q4_k_m"]), some(None, "q4_k_m", None));
        assert_eq!(read(&["in.gguf", "15", "4"]), some(None, "15", Some(4)));
        assert_eq!(read(&["in.gguf", "out.gguf", "q8_0"]), some(Some("out.gguf"), "q8_0", None));
        assert_eq!(read(&["in.gguf", "o.gguf", "2", "8"]), some(Some("o.gguf"), "2", Some(8)));
        assert_eq!(read(&["in.gguf", "q8_0", "-1"]), some(None, "q8_0", None));
        assert_eq!(read(&["in.gguf"]), None);
        assert_eq!(read(&["in.gguf", "out.gguf", "q8_0", "x"]), None);
        assert_eq!(read(&["in.gguf", "q8_0", "2", "3"]), None);
    }

    #[test]
    fn tensor_types_keep_their_order_on_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "b=q5_0\n c=q6_k").unwrap();
        let path = file.path().to_str().unwrap();
        let words =
            ["", "--tensor-type", "a=q4_0", "--tensor-type-file", path, "--tensor-type=d=f16"];
        let command = <TensorTypes as clap::Args>::augment_args(clap::Command::new(""));
        let matches = command.try_get_matches_from(words).unwrap();
        let read = <TensorTypes as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let pairs = read.read().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(p, q)| (p.as_str(), *q)).collect();
        assert_eq!(pairs, [("a", "q4_0"), ("b", "q5_0"), ("c", "q6_k"), ("d", "f16")]);
    }

    #[test]
    fn pairs_are_read() {
        let (pattern, quant) = tensor_type("ATTN_V=Q8_0").unwrap();
        assert_eq!((pattern.as_str(), quant), ("attn_v", "q8_0"));
        assert!(tensor_type("=q8_0").is_err() && tensor_type("a=").is_err());
        let read = |text| key_value(text).map(|(_, value)| value);
        assert_eq!(key_value("a.b=int:-7"), Ok(("a.b".to_owned(), Value::U32(7))));
        assert_eq!(read("k=float:1e-5"), Ok(Value::F32(1e-5)));
        assert_eq!(read("k=bool:true"), Ok(Value::Bool(true)));
        assert_eq!(read("k=str:a=b:c"), Ok(Value::String(b"a=b:c".to_vec())));
        assert!(read("k=bool:1").is_err() && read("k=7").is_err() && read("k").is_err());
        assert!(read("=int:5").is_err());
    }
}
