//! What the runtime seam promises, whatever engine stands behind it. `ai/parity/runtime.py` makes the graphs.

#![expect(clippy::disallowed_methods, reason = "tests read fixtures")]

use std::path::{Path, PathBuf};

use auralink_ai::pack::onnxruntime_candidates;
use auralink_ai::runtime::{Element, Model, ModelFile, OnnxRuntime, Provider, Rten, Runtime, RuntimeError, RuntimeOptions, Tensor, Value};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/runtime")
}

fn file(name: &str) -> ModelFile {
    ModelFile::new(std::fs::read(folder().join(name)).expect("the fixture is there"))
}

fn onnxruntime() -> OnnxRuntime {
    OnnxRuntime::open(&onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime")
}

fn engines() -> [Box<dyn Runtime>; 2] {
    [Box::new(onnxruntime()), Box::new(Rten::default())]
}

fn floats(value: &Value) -> Vec<f32> {
    value.f32().expect("floats").into_owned()
}

fn refusal(result: Result<Vec<Value>, RuntimeError>) -> String {
    result.expect_err("it must be refused").to_string()
}

fn step(model: &mut dyn Model, past: Value, first: f32, use_cache: bool) -> Vec<Value> {
    let inputs = vec![
        ("x", Tensor::f32([1, 2], vec![first, first + 1.0]).into()),
        ("past", past),
        ("use_cache_branch", Tensor::bool([1], vec![use_cache]).into()),
    ];
    model.run(inputs, &["present", "sum"]).expect("the graph can be run")
}

#[test]
fn what_a_run_gives_goes_into_the_next() {
    for engine in engines() {
        let mut model = engine.load(&file("cache.onnx")).expect("the graph loads");
        let nothing = Value::from(Tensor::f32([0, 2], vec![]));
        let mut given = step(&mut *model, nothing, 1.0, false);
        for turn in 1..4 {
            // A clone is the same value: the first stays what it was.
            let before = floats(&given[0]);
            let next = step(&mut *model, given[0].clone(), turn as f32 * 10.0, true);
            assert_eq!(floats(&given[0]), before, "{}", engine.name());
            given = next;
        }
        assert_eq!(given[0].shape(), [4, 2], "{}", engine.name());
        assert_eq!(floats(&given[0]), [1.0, 2.0, 10.0, 11.0, 20.0, 21.0, 30.0, 31.0], "{}", engine.name());
        assert_eq!((floats(&given[1]), given[1].shape()), (vec![126.0], &[][..]), "{}", engine.name());
    }
}

#[test]
fn a_graph_says_what_it_is() {
    for engine in engines() {
        let model = engine.load(&file("cache.onnx")).expect("the graph loads");
        assert_eq!(model.metadata().get("T").map(String::as_str), Some("45"), "{}", engine.name());
        let x = model.inputs().iter().find(|input| input.name == "x").expect("there is an input x");
        assert_eq!((x.element, x.shape.as_slice()), (Element::F32, &[None, Some(2)][..]), "{}", engine.name());
    }
}

#[test]
fn halves_are_converted_on_both_sides() {
    let mut model = onnxruntime().load(&file("halves.onnx")).expect("the graph loads");
    assert_eq!(model.inputs()[0].element, Element::F16);
    let given = model.run(vec![("x", Tensor::f32([3], vec![1.0, -3.0, 0.25]).into())], &["y"]).expect("floats are taken");
    assert_eq!(floats(&given[0]), [0.5, -1.5, 0.125]);
    // What it gave, it takes as it is.
    let again = model.run(vec![("x", given[0].clone())], &["y"]).expect("its own halves are taken");
    assert_eq!(floats(&again[0]), [0.25, -0.75, 0.0625]);
}

#[test]
fn data_beside_the_file_is_found_in_its_folder_alone() {
    let at = || vec![("at", Value::from(Tensor::i64([2], vec![7, 511])))];
    let mut model = onnxruntime().load(&file("external.onnx").with_folder(folder())).expect("the data lies beside it");
    assert_eq!(floats(&model.run(at(), &["y"]).expect("it can be run")[0]), [7.0, 511.0]);
    let elsewhere = onnxruntime().load(&file("external.onnx").with_folder("/nowhere"));
    assert!(matches!(elsewhere, Err(RuntimeError::Load { .. })));
}

#[test]
fn wrong_tensors_are_refused_in_words() {
    for engine in engines() {
        let mut model = engine.load(&file("cache.onnx")).expect("the graph loads");
        let right = || {
            vec![
                ("x", Value::from(Tensor::f32([1, 2], vec![0.0; 2]))),
                ("past", Tensor::f32([0, 2], vec![]).into()),
                ("use_cache_branch", Tensor::bool([1], vec![true]).into()),
            ]
        };
        let unknown = refusal(model.run(right(), &["presents"]));
        assert!(unknown.contains("presents"), "{}: {unknown}", engine.name());
        let mut short = right();
        short[0].1 = Tensor::f32([1, 2], vec![0.0]).into();
        let message = refusal(model.run(short, &["sum"]));
        assert!(message.contains("`x` has shape [1, 2] but 1 elements"), "{}: {message}", engine.name());
        let mut overflowing = right();
        overflowing[0].1 = Tensor::f32([usize::MAX, 2], vec![]).into();
        assert!(model.run(overflowing, &["sum"]).is_err(), "{}", engine.name());
        let mut narrow = right();
        narrow[1].1 = Tensor::f32([1, 3], vec![0.0; 3]).into();
        assert!(model.run(narrow, &["sum"]).is_err(), "{}", engine.name());
        assert!(model.run(right(), &["sum"]).is_ok(), "{}: a refusal leaves it usable", engine.name());
    }
}

#[test]
fn tensors_of_another_engine_are_refused() {
    let mut ort = onnxruntime().load(&file("cache.onnx")).expect("the graph loads");
    let mut rten = Rten::default().load(&file("cache.onnx")).expect("the graph loads");
    let present = step(&mut *ort, Tensor::f32([0, 2], vec![]).into(), 1.0, false).swap_remove(0);
    let inputs = vec![
        ("x", Value::from(Tensor::f32([1, 2], vec![0.0; 2]))),
        ("past", present),
        ("use_cache_branch", Tensor::bool([1], vec![true]).into()),
    ];
    let message = refusal(rten.run(inputs, &["sum"]));
    assert!(message.contains("another engine"), "{message}");
}

#[test]
fn a_provider_that_the_library_lacks_is_an_error_and_never_a_slower_processor() {
    let options = RuntimeOptions { providers: vec![Provider::Cuda], ..RuntimeOptions::default() };
    let message = match onnxruntime().with_options(options).load(&file("cache.onnx")) {
        Err(error) => error.to_string(),
        // A machine with CUDA's library of ONNX Runtime.
        Ok(_) => return,
    };
    assert!(message.contains("CUDA") && message.contains("ai.providers") && !message.contains("complete ONNX model"), "{message}");
    let message = "gpu".parse::<Provider>().expect_err("there is none of this name");
    assert!(message.contains("`gpu`") && message.contains("cuda, tensorrt"), "{message}");
}
