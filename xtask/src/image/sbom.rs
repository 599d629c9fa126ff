//! The list of everything in an image: distribution packages, crates and clients, each with its hash (CycloneDX 1.6).
//!
//! It is made of the lock files alone and not of what lies around, so that two builds of one commit list the same; and the
//! build fails when the image holds other packages than the lock says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use hw_tests::image::Arch;
use serde_json::{Value, json};

use super::programs::DAEMONS;

/// The list for one image of a checkout, which holds this set of packages, as JSON that is the same every time.
pub(crate) fn text(repository: &Path, arch: Arch, set: &str) -> anyhow::Result<String> {
    let lock_path = repository.join("image/lock").join(arch.name());
    let lock = fs::read_to_string(&lock_path).with_context(|| {
        format!(
            "cannot read {}; make it with ./hearth image --lock --arch {}",
            lock_path.display(),
            arch.name()
        )
    })?;
    let mut components = packages(&lock, &["initrd", set])?;
    components.extend(crates(repository, arch)?);
    let version = env!("CARGO_PKG_VERSION");
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "name": format!("hearth-{set}-{}", arch.name()),
                "version": version,
            },
            "tools": { "components": [
                { "type": "application", "name": "rustc", "version": first_line("rustc", "--version")? },
                { "type": "application", "name": "cc", "version": first_line("cc", "--version")? },
            ] },
        },
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// The distribution's packages that are in one of these sets of the lock.
fn packages(lock: &str, sets: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for line in lock.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, version, architecture, _size, sha256, _path, inside] = fields[..] else {
            anyhow::bail!("a line of the package lock has not seven words: {line}");
        };
        let inside: Vec<&str> =
            sets.iter().copied().filter(|set| inside.split(',').any(|s| s == *set)).collect();
        if inside.is_empty() {
            continue;
        }
        let encoded = version.replace('+', "%2B").replace(':', "%3A").replace('~', "%7E");
        let purl = format!("pkg:deb/debian/{name}@{encoded}?arch={architecture}&distro=trixie");
        found.push(json!({
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "hashes": [{ "alg": "SHA-256", "content": sha256 }],
            "properties": [{ "name": "hearth:in", "value": inside.join(",") }],
        }));
    }
    ensure!(!found.is_empty(), "the package lock names nothing for {}", sets.join(" or "));
    Ok(found)
}

/// The crates that the daemons are made of: what they are linked with and what their build runs, without tests.
fn crates(repository: &Path, arch: Arch) -> anyhow::Result<Vec<Value>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(repository)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", arch.triple()])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo's metadata")?;
    let lock = fs::read_to_string(repository.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let mut found = from_metadata(&metadata, &checksums(&lock)?)?;
    // The metadata count features that only tests switch on, and what these bring; the tree of the daemons does not.
    let built = tree(repository, arch)?;
    let word = |component: &Value, key: &str| component[key].as_str().unwrap_or_default().to_owned();
    found.retain(|component| built.contains(&(word(component, "name"), word(component, "version"))));
    ensure!(found.len() == built.len(), "cargo's tree and its metadata name different crates");
    Ok(found)
}

/// Name and version of every crate that building the daemons compiles.
fn tree(repository: &Path, arch: Arch) -> anyhow::Result<BTreeSet<(String, String)>> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(repository).args(["tree", "--locked", "--target", arch.triple()]);
    command.args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe", "--format", "{p}"]);
    command.args(DAEMONS.iter().flat_map(|daemon| ["-p", daemon]));
    let output = command.output().context("cannot run cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("cargo's tree")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect())
}

type Checksums = BTreeMap<(String, String), String>;

/// Name and version to checksum, of everything in Cargo.lock that comes from the registry.
fn checksums(lock: &str) -> anyhow::Result<Checksums> {
    let lock: toml::Table = lock.parse().context("Cargo.lock")?;
    let packages =
        lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let word = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    Ok(packages
        .iter()
        .filter_map(|package| {
            Some(((word(package, "name")?, word(package, "version")?), word(package, "checksum")?))
        })
        .collect())
}

fn from_metadata(metadata: &Value, checksums: &Checksums) -> anyhow::Result<Vec<Value>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let by_id: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (word(&package["id"]), package)).collect();
    let edges: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let into = list(&node["deps"])
                .into_iter()
                .filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev"));
            (word(&node["id"]), into.map(|dep| word(&dep["pkg"])).collect())
        })
        .collect();
    let roots = by_id.iter().filter(|(_, package)| {
        package["source"].is_null() && DAEMONS.contains(&package["name"].as_str().unwrap_or_default())
    });
    let mut waiting: Vec<String> = roots.map(|(id, _)| id.clone()).collect();
    ensure!(waiting.len() == DAEMONS.len(), "cargo does not know every daemon");
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if seen.insert(id.clone()) {
            waiting.extend(edges.get(&id).into_iter().flatten().cloned());
        }
    }
    let mut found = BTreeMap::new();
    for id in &seen {
        let package = by_id.get(id).with_context(|| format!("cargo does not describe {id}"))?;
        let (name, version) = (word(&package["name"]), word(&package["version"]));
        let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
        let mut component = json!({
            "type": if DAEMONS.contains(&name.as_str()) { "application" } else { "library" },
            "bom-ref": purl,
            "name": name,
            "version": version,
            "licenses": [{ "expression": word(&package["license"]) }],
        });
        if package["source"].is_null() {
            // Ours: the commit of this repository is what it is.
            component["publisher"] = "Hearth".into();
        } else {
            let sum = checksums.get(&(name.clone(), version.clone()));
            let sum = sum.with_context(|| format!("Cargo.lock has no checksum for {name} {version}"))?;
            component["purl"] = purl.into();
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        if package["license"].is_null() {
            component["licenses"] = json!([]);
        }
        found.insert((name, version), component);
    }
    Ok(found.into_values().collect())
}

fn first_line(program: &str, argument: &str) -> anyhow::Result<String> {
    let output =
        Command::new(program).arg(argument).output().with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_other_sets_are_left_out() {
        let lock = "# as of 2026\na 1:2+b amd64 9 aa debian/pool/a.deb dev,release\nb 1 all 9 bb debian/pool/b.deb tools\n";
        let found = packages(lock, &["initrd", "dev"]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["purl"], "pkg:deb/debian/a@1%3A2%2Bb?arch=amd64&distro=trixie");
        assert_eq!(found[0]["hashes"][0]["content"], "aa");
        assert!(packages(lock, &["initrd"]).is_err());
        assert!(packages("a 1 amd64\n", &["dev"]).is_err());
    }

    #[test]
    fn every_crate_from_outside_has_a_hash_and_none_is_there_for_tests_only() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = crates(&repository, Arch::X86_64).unwrap();
        let named = |name: &str| found.iter().find(|component| component["name"] == name);
        for component in &found {
            assert!(component["publisher"] == "Hearth" || component["hashes"][0]["content"].is_string());
        }
        assert_eq!(named("blst").unwrap()["purl"], "pkg:cargo/blst@0.3.17");
        assert_eq!(named("signer").unwrap()["type"], "application");
        assert!(named("proptest").is_none());
        assert!(named("xtask").is_none());
    }

    #[test]
    fn a_crate_without_a_checksum_is_refused() {
        let node = |id: &str, deps: Value| json!({ "id": id, "deps": deps });
        let package = |name: &str, source: Value| json!({ "id": name, "name": name, "version": "1.0.0", "source": source, "license": "MIT" });
        let dep = json!([{ "pkg": "odd", "dep_kinds": [{ "kind": null }] }]);
        let metadata = json!({
            "packages": [package("signer", Value::Null), package("dv-node", Value::Null), package("web", Value::Null), package("cores", Value::Null), package("installer", Value::Null), package("recovery", Value::Null), package("odd", "registry".into())],
            "resolve": { "nodes": [node("signer", dep), node("dv-node", json!([])), node("web", json!([])), node("cores", json!([])), node("installer", json!([])), node("recovery", json!([])), node("odd", json!([]))] },
        });
        assert!(from_metadata(&metadata, &Checksums::new()).is_err());
        let sums = Checksums::from([(("odd".to_owned(), "1.0.0".to_owned()), "ff".to_owned())]);
        assert_eq!(from_metadata(&metadata, &sums).unwrap().len(), DAEMONS.len() + 1);
    }
}
