//! Tests of the Kubernetes manifests: they hold only fields that the current types have, and the
//! overlay for the oldest version differs from the base only where it must. Also tests that an
//! image's dependencies are compiled with the same inputs as the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn deploy() -> PathBuf {
    PathBuf::from("../deploy")
}

/// Returns the documents of a file.
fn documents(file: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parts = text.split("\n---\n");
    let parse = |part: &str| -> Value {
        serde_saphyr::from_str(part).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    parts.map(parse).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(deploy().join(folder)).expect("the folder is there");
    let mut files: Vec<_> = all.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    files
}

/// Returns the part of a document that a type keeps.
fn kept<T: DeserializeOwned + serde::Serialize>(document: &Value) -> Value {
    let typed: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{error}: {document}"));
    serde_json::to_value(typed).expect("it came from JSON")
}

/// Asserts that everything in `said` is in `kept`.
fn assert_kept(said: &Value, kept: &Value, path: &str) {
    match (said, kept) {
        (Value::Object(said), Value::Object(kept)) => {
            for (key, value) in said {
                let path = format!("{path}.{key}");
                let kept = kept.get(key).unwrap_or_else(|| panic!("{path} is no field"));
                assert_kept(value, kept, &path);
            }
        }
        (Value::Array(said), Value::Array(kept)) => {
            assert_eq!(said.len(), kept.len(), "{path}");
            for (place, (said, kept)) in said.iter().zip(kept).enumerate() {
                assert_kept(said, kept, &format!("{path}[{place}]"));
            }
        }
        (said, kept) => assert_eq!(said, kept, "{path}"),
    }
}

#[test]
fn everything_is_what_current_types_know() {
    let mut count = 0;
    for file in files("base") {
        if file.ends_with("kustomization.yaml") {
            continue;
        }
        for document in documents(&file) {
            let kind = document["kind"].as_str().unwrap_or_default().to_owned();
            let version = document["apiVersion"].as_str().unwrap_or_default().to_owned();
            let kept = match (version.as_str(), kind.as_str()) {
                ("apps/v1", "StatefulSet") => kept::<StatefulSet>(&document),
                ("apps/v1", "Deployment") => kept::<Deployment>(&document),
                ("v1", "Service") => kept::<Service>(&document),
                ("v1", "ConfigMap") => kept::<ConfigMap>(&document),
                ("v1", "Secret") => kept::<Secret>(&document),
                ("v1", "ServiceAccount") => kept::<ServiceAccount>(&document),
                ("networking.k8s.io/v1", "NetworkPolicy") => kept::<NetworkPolicy>(&document),
                ("policy/v1", "PodDisruptionBudget") => kept::<PodDisruptionBudget>(&document),
                ("rbac.authorization.k8s.io/v1", "Role") => kept::<Role>(&document),
                ("rbac.authorization.k8s.io/v1", "RoleBinding") => kept::<RoleBinding>(&document),
                other => panic!("{file:?}: {other:?} is not among the types that are looked at"),
            };
            assert_kept(&document, &kept, &kind);
            count += 1;
        }
    }
    assert!(count >= 13, "{count} objects");
}

/// Each file of the base is applied.
#[test]
fn the_base_is_whole() {
    let [kustomization] = &documents(&deploy().join("base/kustomization.yaml"))[..] else {
        panic!()
    };
    let mut listed: Vec<_> =
        kustomization["resources"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    listed.sort_unstable();
    let files = files("base");
    let there: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let there: Vec<_> = there.into_iter().filter(|file| *file != "kustomization.yaml").collect();
    assert_eq!(listed, there);
}

/// The oldest version lacks two fields and has the disruption budget under another version.
#[test]
fn the_oldest_version_differs_only_where_it_must() {
    let folder = deploy().join("overlays/k8s-1.20");
    let [kustomization] = &documents(&folder.join("kustomization.yaml"))[..] else { panic!() };
    let expected = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "default",
        "bases": ["../../base"],
        "resources": ["disruption.yaml"],
        "patchesStrategicMerge": ["no-newer-disruption.yaml"],
        "patchesJson6902": [{
            "target": {"group": "apps", "version": "v1", "kind": "StatefulSet", "name": "kvorum"},
            "path": "no-newer-fields.yaml",
        }],
    });
    assert_eq!(*kustomization, expected);
    let [fields] = &documents(&folder.join("no-newer-fields.yaml"))[..] else { panic!() };
    let removed: Vec<_> = fields
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["op"].as_str().unwrap(), one["path"].as_str().unwrap()))
        .collect();
    let newer = ["/spec/minReadySeconds", "/spec/persistentVolumeClaimRetentionPolicy"];
    assert_eq!(removed, newer.map(|path| ("remove", path)));
    let [mut older] = documents(&folder.join("disruption.yaml")).try_into().unwrap();
    let older: &mut Value = &mut older;
    assert_eq!(older["apiVersion"], "policy/v1beta1");
    older["apiVersion"] = "policy/v1".into();
    let [newer] = &documents(&deploy().join("base/disruption.yaml"))[..] else { panic!() };
    assert_eq!(older, newer);
}

/// A kubectl before 1.34 ends in a panic when one file of an overlay deletes two objects.
#[test]
fn a_patch_deletes_one_object() {
    let mut deletes = 0;
    for overlay in ["k8s-1.20", "kind", "minikube", "view-only"] {
        for file in files(&format!("overlays/{overlay}")) {
            let all = documents(&file);
            let deleted = all.iter().filter(|one| one["$patch"] == "delete").count();
            assert!(deleted == 0 || all.len() == 1, "{}", file.display());
            deletes += deleted;
        }
    }
    assert_eq!(deletes, 3, "they were found");
}

/// The bounds of a replica's memory fit into its pod's memory.
#[test]
fn the_pod_has_the_memory_that_the_bounds_fit_into() {
    use kvorum_replica::limits::{POD_BYTES, SUM_BYTES, SUM_BYTES_MAX};
    let [document] = &documents(&deploy().join("base/statefulset.yaml"))[..] else { panic!() };
    let container = &document["spec"]["template"]["spec"]["containers"][0];
    for kind in ["limits", "requests"] {
        let memory = container["resources"][kind]["memory"].as_str();
        assert_eq!(memory, Some(&*format!("{}Mi", POD_BYTES >> 20)), "{kind}");
    }
    println!("all bounds: {} MiB of {} MiB", SUM_BYTES >> 20, SUM_BYTES_MAX >> 20);
}

/// The rules of the Pod Security level "restricted", in case the cluster under test does not
/// enforce it.
#[test]
fn every_pod_is_restricted() {
    for name in ["statefulset", "console"] {
        let [document] = &documents(&deploy().join(format!("base/{name}.yaml")))[..] else {
            panic!()
        };
        let pod = &document["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            assert!(volume.get("hostPath").is_none(), "{name}: {volume}");
        }
    }
}

#[test]
fn images_compile_their_dependencies_once() {
    let root = deploy().join("..");
    let workspace = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace is there");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = "));
    let members: Vec<String> = serde_json::from_str(members.expect("it has members"))
        .expect("they are a list of names in one line");
    for name in ["Dockerfile.replica", "Dockerfile.console"] {
        let text = fs::read_to_string(root.join(name)).expect("the file is there");
        let (before, _) = text.split_once("cargo build").expect("it compiles");
        let copied: Vec<&str> = before
            .lines()
            .filter_map(|line| line.strip_prefix("COPY "))
            .flat_map(str::split_whitespace)
            .collect();
        let manifests = members.iter().map(|member| format!("{member}/Cargo.toml"));
        // Inputs that differ when the code is compiled make cargo recompile all dependencies.
        let inputs = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"].map(str::to_owned);
        for input in inputs.into_iter().chain(manifests) {
            assert!(copied.contains(&input.as_str()), "{name} compiles without {input}");
        }
    }
}

/// Does in an empty folder what an image does before its dependencies are compiled.
fn prepare_dependencies(dockerfile: &str, root: &Path, folder: &Path) {
    let (_, stage) = dockerfile.split_once("AS dependencies").expect("a stage compiles them");
    let (stage, _) = stage.split_once("\nFROM").expect("another one compiles the code");
    for line in stage.replace("\\\n", " ").lines() {
        if let Some(copied) = line.strip_prefix("COPY ") {
            let (sources, to) = copied.rsplit_once(' ').expect("sources, and where they go");
            for source in sources.split_whitespace() {
                let target = folder.join(to).join(Path::new(source).file_name().expect("a file"));
                fs::create_dir_all(target.parent().expect("a folder")).expect("it can be made");
                fs::copy(root.join(source), target).expect("the file is there");
            }
        } else if let Some(command) = line.strip_prefix("RUN ") {
            let ran = Command::new("sh")
                .args(["-ec", command])
                // So that nothing is installed or compiled.
                .env("HOST_BINARIES", "none")
                .current_dir(folder)
                .status();
            assert!(ran.expect("there is a shell").success(), "{command}");
        }
    }
}

#[test]
fn the_manifests_in_an_image_can_be_read_before_the_code_is_there() {
    let root = deploy().join("..");
    for name in ["Dockerfile.replica", "Dockerfile.console"] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let dockerfile = fs::read_to_string(root.join(name)).expect("the file is there");
        prepare_dependencies(&dockerfile, &root, folder.path());
        // Cargo looks for a program only after it has read every manifest.
        let mut cargo = Command::new(std::env::var("CARGO").as_deref().unwrap_or("cargo"));
        cargo.args(["run", "--locked", "--offline", "--bin=nothing"]).current_dir(folder.path());
        let said = cargo.output().expect("cargo runs").stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("no bin target named `nothing`"), "{name}: {said}");
    }
}
