//! Container images without a registry: archives as `docker save` writes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::run;
use crate::{LabError, Result};

/// The image of the containers that hold a pod's namespaces.
pub const PAUSE: &str = "localhost/lab/pause:1";
/// The image of the pods: busybox, which serves its pod's name by HTTP on port 80.
pub const BUSYBOX: &str = "localhost/lab/busybox:1";

const BUSYBOX_PROGRAM: &str = "/bin/busybox";
/// Process 1 ends only by signals that it has asked for.
const SERVE: &str =
    "trap 'exit 0' TERM INT; mkdir -p /www; hostname >/www/index.html; httpd -f -p 80 -h /www & wait";

/// Writes the image of pods and the one of pauses into `dir`.
pub fn busybox(dir: &Path) -> Result<[PathBuf; 2]> {
    let root = dir.join("busybox");
    let bin = root.join("bin");
    for dir in [&bin, &root.join("tmp"), &root.join("etc")] {
        fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
    }
    let program = Path::new(BUSYBOX_PROGRAM);
    fs::copy(program, bin.join("busybox")).map_err(LabError::file("copy", program))?;
    for applet in run(Command::new(program).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        let path = bin.join(applet);
        symlink("busybox", &path).map_err(LabError::file("create", &path))?;
    }
    Ok([
        archive(dir, PAUSE, &root, &["/bin/sleep", "infinity"])?,
        archive(dir, BUSYBOX, &root, &["/bin/sh", "-c", SERVE])?,
    ])
}

/// An image of one layer, with the files below `root`.
pub fn archive(dir: &Path, name: &str, root: &Path, command: &[&str]) -> Result<PathBuf> {
    let short = name.replace(['/', ':'], "-");
    let parts = dir.join(&short);
    fs::create_dir_all(&parts).map_err(LabError::file("create", &parts))?;
    let tar = |archive: &Path, from: &Path, names: &[&str]| {
        run(Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(from).args(names))
    };
    let layer = parts.join("layer.tar");
    tar(&layer, root, &["--owner=0", "--group=0", "."])?;
    let sum = run(Command::new("sha256sum").arg(&layer))?;
    let digest = sum.split_whitespace().next().unwrap_or_default();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    write(&parts.join("config.json"), &config)?;
    write(&parts.join("manifest.json"), &manifest)?;
    let image = dir.join(format!("{short}.tar"));
    tar(&image, &parts, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(image)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).map_err(LabError::file("write", path))
}
