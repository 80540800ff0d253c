//! Every message of an error in the sources is in a table of errors that tests make happen, or is excused here.

use std::path::{Path, PathBuf};

/// Tables whose lines tests compare as a whole.
const TABLES: [&str; 4] = [
    "xtask/tests/cli/errors.txt",
    "crates/resnext-data/tests/hostile/expected.txt",
    "crates/resnext-model/tests/hostile/expected.txt",
    "crates/resnext-model/tests/hub/hostile.rs",
];

/// Where messages are: all of the program, and the libraries' types of errors.
const SOURCES: [&str; 6] = [
    "xtask/src",
    "crates/resnext-data/src/error.rs",
    "crates/resnext-data/src/decode/error.rs",
    "crates/resnext-model/src/error.rs",
    "crates/resnext-model/src/hub/error.rs",
    "crates/resnext-train/src/error.rs",
];

/// How a message begins that is in no table, and why.
const EXCUSED: [(&str, &str); 57] = [
    ("cannot start {name}", "an engine that cannot be started needs a broken installation"),
    ("{name} has no pipes", "pipes are asked for in the same call"),
    ("{} has ended", "an engine must die between two requests"),
    ("cannot draw the chart", "drawing into a string does not fail"),
    ("cannot draw the picture", "drawing into a string does not fail"),
    ("no network here asks for Kaiming's", "every network with noise as weights asks for ranges"),
    ("a weight was requested without its shape", "networks request every weight with its shape"),
    ("a row without a heading", "the row has named fields"),
    ("test photos are prepared", "test photos have one preparation"),
    ("--serve needs a --dtype", "`--serve` is for the program itself"),
    ("--peers needs a network with 64", "no network that has a name has another number of planes"),
    ("cannot run {}; --python", "comes after a minute of starting our own engine"),
    ("--train --peers needs a network", "needs Python with other engines"),
    ("peers.py {what} failed", "needs Python with other engines"),
    ("no VmHWM", "a kernel without it"),
    ("unknown request `{}`", "`--serve` is for the program itself"),
    ("cannot start threads", "needs a machine that has no threads left"),
    ("a part of the proof panicked", "no part is known to panic"),
    ("only {done} of {}", "the loader gives one result per photo"),
    ("the data set has no training images", "readers refuse such sets"),
    ("photos have no common size", "photos are opened elsewhere"),
    ("device {self} cannot be opened", "needs a GPU that is broken"),
    ("this machine has no Metal device", "needs a build for Apple"),
    ("--dtype is for inference on the CPU", "needs a GPU"),
    ("the test set of {} has no images", "readers refuse such sets"),
    ("no file name", "a name with an ending has a beginning"),
    ("{failed} of {} could not be classified", "follows a line per photo: `predict.rs`"),
    ("no free name", "takes as many files as there are numbers"),
    ("an image without pixels", "networks have no input without pixels"),
    ("cannot remove {}", "a folder that becomes read-only between two calls: `scripts/kills.sh`"),
    ("no free run folder", "takes as many folders as there are numbers"),
    ("a recipe is a table", "a recipe that was parsed is one"),
    ("the run stopped before its end", "`gpu-check` is not interrupted"),
    ("{} in {precision}: the loss is", "a GPU that computes wrongly"),
    ("{}: the worker failed", "`a_list_gives_one_result_per_photo_even_if_workers_panic`"),
    ("the decoder failed", "a decoder that panics, of which none is known"),
    ("expected images (N, 3, H, W)", "commands make such images only"),
    ("`{0}` cannot be the name", "`invalid_names_are_refused_before_any_request`"),
    ("no home folder", "depends on the user database of the machine"),
    ("no such repository or revision", "`refusals_say_what_may_help`"),
    ("access refused", "`refusals_say_what_may_help`"),
    ("the server sent {got}", "`a_server_that_sends_hardly_anything_is_left`"),
    ("another program has locked it", "`a_lock_of_another_program_is_waited_for_and_then_named`"),
    ("{} ended without an answer", "a process of our own that is killed"),
    ("the download is damaged", "`wrong_lengths_and_contents_are_never_kept`"),
    ("the process for {name} ended", "a process of our own that is killed"),
    ("{}: {reason}; move that folder away", "a run folder that another program damaged"),
    ("--budget: {error}", "comes after steps of each network have been measured"),
    (
        "{name}: {} has labels of the images 1 to",
        "`a_prediction_is_right_if_it_is_among_the_labels_of_its_image`",
    ),
    ("--sync-bn, --wire and --bucket are", "`ranks_that_differ_are_refused_with_one_line`"),
    ("srun has started several processes", "`ranks_that_differ_are_refused_with_one_line`"),
    ("an MPI launcher has started several", "a program without the feature `mpi`"),
    ("--distributed prints tables", "needs the feature `mpi`"),
    ("{processes} processes cannot share --batch", "needs the feature `mpi`"),
    ("int8 is for ResNets and ResNeXts", "the network's own error comes first"),
    ("--python needs bench/peers/gpu.py", "the sources that the program was built from are gone"),
    ("the cache: {0}", "`a_full_disk_is_named_and_leaves_nothing`"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        files.push(path.to_path_buf());
    }
}

/// The string literals of a piece of source, with lines that continue joined.
fn literals(source: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), source.chars().peekable());
    while let Some(c) = rest.next() {
        if c != '"' {
            continue;
        }
        let mut literal = String::new();
        while let Some(c) = rest.next().filter(|&c| c != '"') {
            match (c, rest.peek()) {
                ('\\', Some('\n')) => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                ('\\', _) => literal.extend(rest.next()),
                (c, _) => literal.push(c),
            }
        }
        found.push(literal);
    }
    found
}

/// A call from after its opening parenthesis to its end.
fn call(source: &str) -> &str {
    let mut depth = 1;
    for (at, c) in source.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 {
            return &source[..at];
        }
    }
    source
}

/// The messages of a file: what stands in the calls that make errors, of several literals the longest.
fn messages(source: &str) -> Vec<String> {
    const CALLS: [&str; 6] = ["bail!(", "ensure!(", "anyhow!(", ".context(", "with_context(", "#[error("];
    let source = source.split("#[cfg(test)]").next().unwrap();
    let of_kind = |kind: &'static str| {
        source.match_indices(kind).filter_map(move |(at, _)| {
            let literals = literals(call(&source[at + kind.len()..]));
            let texts = literals.into_iter().filter(|literal| literal.contains(' '));
            // The first of `ensure!`, whose arguments may be texts as well.
            if kind == "ensure!(" { texts.into_iter().next() } else { texts.max_by_key(String::len) }
        })
    };
    CALLS.into_iter().flat_map(of_kind).collect()
}

/// Whether a line has the fixed parts of a message, in order.
fn is_of(line: &str, message: &str) -> bool {
    let mut rest = line;
    message.split(['{', '}']).step_by(2).filter(|part| part.len() > 2).all(|part| {
        match rest.split_once(part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        }
    })
}

#[test]
fn every_message_of_the_sources_is_in_a_table_or_excused() {
    let tables: Vec<String> =
        TABLES.iter().map(|file| std::fs::read_to_string(root().join(file)).unwrap()).collect();
    let lines: Vec<&str> = tables.iter().flat_map(|table| table.lines()).collect();
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| rust_files(&root().join(source), &mut files));
    let all: Vec<String> =
        files.iter().flat_map(|file| messages(&std::fs::read_to_string(file).unwrap())).collect();
    assert!(all.len() > 120, "{}", all.len());
    let uncovered: Vec<&String> =
        all.iter().filter(|message| !lines.iter().any(|line| is_of(line, message))).collect();
    let unexcused: Vec<_> = uncovered
        .iter()
        .filter(|message| !EXCUSED.iter().any(|(start, _)| message.starts_with(start)))
        .collect();
    assert!(unexcused.is_empty(), "in no table: {unexcused:#?}");
    // An excuse for a message that is in a table, or nowhere, is out of date.
    let idle: Vec<_> = EXCUSED
        .iter()
        .filter(|(start, _)| !uncovered.iter().any(|message| message.starts_with(start)))
        .collect();
    assert!(idle.is_empty(), "no longer needed: {idle:#?}");
}
