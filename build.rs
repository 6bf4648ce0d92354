//! Compiles the eBPF programs. Without clang the package builds all the same, and says so when it
//! is asked for them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=ebpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let object = PathBuf::from(variable("OUT_DIR")).join("datapath.o");
    let missing = compile(&object).err().unwrap_or_default();
    if !missing.is_empty() {
        println!("cargo:warning=no eBPF datapath in this build: {missing}");
        if let Err(error) = fs::write(&object, []) {
            println!("cargo:error={}: {error}", object.display());
        }
    }
    println!("cargo:rustc-env=EBPF_MISSING={missing}");
}

/// Says why not, in one line.
fn compile(object: &PathBuf) -> Result<(), String> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let [endian, arch] =
        ["ENDIAN", "ARCH"].map(|what| variable(&format!("CARGO_CFG_TARGET_{what}")));
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    // Debian keeps asm/ where only a compiler for that architecture looks.
    let arch = if arch == "x86" { "i386" } else { arch.to_str().unwrap_or_default() }.to_owned();
    let output = Command::new(&clang)
        // With the 32-bit registers of v3 it spills halves of slots over pointers, which the verifier
        // takes from nobody without CAP_PERFMON.
        .args(["-target", target, "-mcpu=v2", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // The object must not depend on where it was built.
        .args(["-fdebug-compilation-dir", ".", "-fno-ident"])
        .args(["-idirafter", &format!("/usr/include/{arch}-linux-gnu")])
        .args(["-c", "ebpf/datapath.c", "-o"])
        .arg(object)
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line =
                said.lines().find(|line| line.contains("error")).unwrap_or("no reason given");
            Err(format!("clang could not compile it ({})", line.trim()))
        }
        Err(error) => Err(format!("it was built without clang ({}: {error})", clang.display())),
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_default()
}
