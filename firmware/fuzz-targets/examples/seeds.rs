//! Writes the seeds of every target, or of the ones named, to `fuzz/corpus`: run it after a format has changed.
//!
//! Regression inputs (`regression-…`) stay; seeds are written anew.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for target in fuzz_targets::targets() {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == target.name) {
            continue;
        }
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for known in std::fs::read_dir(&folder)? {
            let known = known?.path();
            if known.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-")) {
                std::fs::remove_file(known)?;
            }
        }
        for (number, seed) in (0..).zip(target.seeds()) {
            std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
