//! Builds the OS image by calling `image/build`, which does nothing when nothing has changed.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Console on the serial port, a root shell for tests, test keys.
    Dev,
    /// What ships.
    Release,
}

impl Profile {
    /// Its name in `image/mkosi.profiles`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// For which processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arch {
    /// Mini-PCs.
    #[default]
    X86_64,
    /// Single-board computers.
    Arm64,
}

impl Arch {
    /// Its name, as mkosi and `./hearth image --arch` say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        }
    }

    /// Whether this host's own processor is of this kind.
    pub fn is_host(self) -> bool {
        match self {
            Self::X86_64 => cfg!(target_arch = "x86_64"),
            Self::Arm64 => cfg!(target_arch = "aarch64"),
        }
    }

    /// Its name in Rust's target triples.
    pub fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// What a build makes of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing is done when nothing has changed.
    Kept,
    /// Built anew, on installed layers that an earlier build left.
    Layers,
    /// Built anew from packages and programs alone.
    Ignored,
}

/// What to build, and from what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The repository, which holds `image/` and `systemd/`.
    pub repository: PathBuf,
    /// Which image.
    pub profile: Profile,
    /// For which processor.
    pub arch: Arch,
    /// The folder with the programs `signer`, `dv-node`, `web`, `cores`, `installer` and `recovery`.
    pub binaries: PathBuf,
    /// The serial port and speed of the real machine that a dev image is for; QEMU unless given.
    pub console: Option<String>,
    /// The list of everything in it, which goes into it.
    pub sbom: PathBuf,
    /// `sb`, `pcr` and `sums`, each with its `.key`; a release must bring its own, a dev image has test keys.
    pub keys: Option<PathBuf>,
    /// Where the image goes, when not where all images go.
    pub out: Option<PathBuf>,
    /// What an earlier build left behind.
    pub earlier: Earlier,
}

impl Options {
    /// What the published files' names begin with; `image/build` gives them the same.
    pub fn name(&self) -> String {
        let port = self.console.as_deref().and_then(|console| console.split(',').next());
        let port = port.map(|port| format!("-{port}")).unwrap_or_default();
        format!("hearth-{}-{}{port}", self.profile.name(), self.arch.name())
    }
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The disk image.
    pub raw: PathBuf,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// What people download: the same, compressed.
    pub compressed: PathBuf,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The build script could not be run or its result not be read.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The build failed.
    #[error("the image was not built:\n{message}")]
    Build {
        /// What the script said last.
        message: String,
    },
}

/// Builds the image when anything it is made of has changed. Tells its progress line by line.
///
/// # Errors
/// When the script fails; its own message says what to do.
pub fn build(options: &Options, mut progress: impl FnMut(&str)) -> Result<Image, ImageError> {
    let script = options.repository.join("image/build");
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::File { path, source }
    };
    let mut command = Command::new("nice");
    command.args(["-n", "5"]).arg(&script).args(["--profile", options.profile.name()]);
    command.args(["--arch", options.arch.name(), "--binaries"]).arg(&options.binaries);
    if let Some(console) = &options.console {
        command.arg("--console").arg(console);
    }
    if let Some(keys) = &options.keys {
        command.arg("--keys").arg(keys);
    }
    if let Some(out) = &options.out {
        command.arg("--out").arg(out);
    }
    command.arg("--sbom").arg(&options.sbom);
    match options.earlier {
        Earlier::Kept => {}
        Earlier::Layers => {
            command.arg("--force");
        }
        Earlier::Ignored => {
            command.arg("--fresh");
        }
    }
    let (reader, writer) = io::pipe().map_err(file(&script))?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(file(&script))?).stderr(writer);
    let mut child = command.spawn().map_err(file(&script))?;
    // Our own ends of the pipe, without which the reading below would never end.
    drop(command);

    let mut said = Vec::new();
    let mut raw = None;
    for line in BufReader::new(reader).lines() {
        let line = line.map_err(file(&script))?;
        let told = line.strip_prefix("image: ").unwrap_or(&line);
        if let Some(path) = told.strip_prefix("done: ").or_else(|| told.strip_prefix("nothing has changed: "))
        {
            raw = Some(PathBuf::from(path));
        }
        progress(told);
        said.push(told.to_owned());
    }
    let status = child.wait().map_err(file(&script))?;
    let last_words = |said: &[String]| said[said.len().saturating_sub(25)..].join("\n");
    let raw =
        raw.filter(|_| status.success()).ok_or_else(|| ImageError::Build { message: last_words(&said) })?;
    let sum_file = raw.with_extension("raw.sha256");
    let sum = std::fs::read_to_string(&sum_file).map_err(file(&sum_file))?;
    let sha256 = sum.split_whitespace().next().unwrap_or_default().to_owned();
    let compressed = raw.with_file_name(format!("{}.img.zst", options.name()));
    Ok(Image { raw, sha256, compressed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release_with(keys: &Path) -> ImageError {
        release_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), keys)
    }

    fn release_of(repository: &Path, keys: &Path) -> ImageError {
        let dir = tempfile::tempdir().unwrap();
        for daemon in ["signer", "dv-node", "web", "cores", "installer", "recovery"] {
            std::fs::copy("/bin/true", dir.path().join(daemon)).unwrap();
        }
        let options = Options {
            sbom: repository.join("Cargo.toml"),
            repository: repository.to_owned(),
            profile: Profile::Release,
            arch: Arch::X86_64,
            binaries: dir.path().to_owned(),
            console: None,
            keys: Some(keys.to_owned()),
            out: Some(dir.path().join("out")),
            earlier: Earlier::Kept,
        };
        build(&options, |_| ()).unwrap_err()
    }

    #[test]
    fn a_release_refuses_the_keys_that_everybody_has() {
        let test_keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/test-keys");
        let error = release_with(&test_keys).to_string();
        assert!(error.contains("is a test key"), "{error}");
        // Under other names and without the note beside them they are the same keys.
        let renamed = tempfile::tempdir().unwrap();
        for (from, to) in
            [("pcr.key", "sb.key"), ("pcr.crt", "sb.crt"), ("sb.key", "pcr.key"), ("sb.crt", "pcr.crt")]
        {
            std::fs::copy(test_keys.join(from), renamed.path().join(to)).unwrap();
        }
        let error = release_with(renamed.path()).to_string();
        assert!(error.contains("is a test key"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        let error = release_with(empty.path()).to_string();
        assert!(error.contains("has no sb.key"), "{error}");
    }

    /// Keys of a release as docs/image.md has them made.
    fn own_keys(dir: &Path) {
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl").current_dir(dir).args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        for name in ["sb", "pcr"] {
            let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
            let subject = format!("/CN=Hearth {name}/");
            openssl(&[
                "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key,
                "-out", &crt,
            ]);
        }
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", "sums.key"]);
    }

    #[test]
    fn a_release_refuses_keys_that_do_not_belong_together_and_the_test_key_in_other_words() {
        let keys = tempfile::tempdir().unwrap();
        own_keys(keys.path());
        let path = |name: &str| keys.path().join(name);
        let test_keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/test-keys");

        let kept = std::fs::read(path("sums.key")).unwrap();
        // Another line of text in front: not the same bytes, but the same key.
        let test = std::fs::read_to_string(test_keys.join("sums.key")).unwrap();
        std::fs::write(path("sums.key"), format!("ours\n{test}")).unwrap();
        let error = release_with(keys.path()).to_string();
        assert!(error.contains("sums.key is the test key"), "{error}");
        std::fs::write(path("sums.key"), kept).unwrap();

        let kept = std::fs::read(path("sb.key")).unwrap();
        std::fs::copy(test_keys.join("sb.key"), path("sb.key")).unwrap();
        let error = release_with(keys.path()).to_string();
        assert!(error.contains("sb.crt is not the certificate of"), "{error}");
        std::fs::write(path("sb.key"), kept).unwrap();

        for end in ["key", "crt"] {
            std::fs::copy(path(&format!("pcr.{end}")), path(&format!("sb.{end}"))).unwrap();
        }
        let error = release_with(keys.path()).to_string();
        assert!(error.contains("sb and pcr are one key"), "{error}");
    }

    #[test]
    fn a_release_is_built_from_a_commit_only() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository");
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::create_dir(&repository).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).current_dir(&repository).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        for part in ["image", "Cargo.toml"] {
            run("cp", &["-r", &ours.join(part).to_string_lossy(), "."]);
        }
        run("git", &["init", "--quiet"]);
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        own_keys(&keys);
        let error = release_of(&repository, &keys).to_string();
        assert!(error.contains("not committed"), "{error}");
        run("git", &["add", "."]);
        run(
            "git",
            &[
                "-c",
                "user.name=x",
                "-c",
                "user.email=x@example.org",
                "-c",
                "commit.gpgsign=false",
                "commit",
                "--quiet",
                "-m",
                "x",
            ],
        );
        // What this machine's git is told to be silent about is no part of a commit either.
        run("git", &["config", "status.showUntrackedFiles", "no"]);
        std::fs::write(repository.join(".git/info/exclude"), "mkosi.local.conf\n").unwrap();
        std::fs::write(repository.join("image/mkosi.local.conf"), "[Content]\n").unwrap();
        let error = release_of(&repository, &keys).to_string();
        assert!(error.contains("image/mkosi.local.conf"), "{error}");
        std::fs::remove_file(repository.join("image/mkosi.local.conf")).unwrap();
        std::fs::write(repository.join("image/mkosi.conf"), "[Output]\n").unwrap();
        let error = release_of(&repository, &keys).to_string();
        assert!(error.contains("image/mkosi.conf"), "{error}");
    }
}
