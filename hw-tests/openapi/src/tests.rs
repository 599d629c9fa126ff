use super::*;
use serde_json::json;

/// A small document in two files, of which each names parts of the other.
fn small() -> (PathBuf, Document) {
    let folder = std::env::temp_dir().join(format!(
        "hearth-openapi-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(folder.join("parts")).unwrap();
    let root = folder.join("root.yaml");
    std::fs::write(
        &root,
        r##"
paths:
  /eth/v1/keys:
    get:
      parameters:
        - {name: slot, in: query, required: true, schema: {type: string, pattern: "^(0|[1-9][0-9]{0,19})$"}}
        - {name: many, in: query, schema: {type: array, items: {type: integer}}}
      responses:
        "200": {content: {application/json: {schema: {$ref: "parts/key.yaml#/List"}}}}
        "204": {description: nothing}
  /eth/v1/keys/{key}:
    post:
      requestBody: {required: true, content: {application/json: {schema: {$ref: "parts/key.yaml#/Key"}}}}
      responses: {"200": {content: {application/json: {schema: {oneOf: [{type: "null"}, {$ref: "#/components/Name"}]}}}}}
  /eth/v1/keys/all:
    post: {responses: {"200": {description: nothing}}}
components:
  Name: {type: string, maxLength: 3}
"##,
    )
    .unwrap();
    std::fs::write(
        folder.join("parts/key.yaml"),
        r##"
Key:
  type: object
  required: [name, bytes]
  additionalProperties: false
  properties:
    name: {$ref: "../root.yaml#/components/Name"}
    bytes: {type: string, pattern: "^0x[a-fA-F0-9]{4}$"}
    kind: {enum: [one, two]}
List: {type: object, required: [data], properties: {data: {type: array, maxItems: 2, items: {$ref: "#/Key"}}}}
"##,
    )
    .unwrap();
    let document = Document::read(&root).unwrap();
    (folder, document)
}

fn differs(verdict: &Verdict, word: &str) -> bool {
    matches!(verdict, Verdict::Differs(why) if why.contains(word))
}

#[test]
fn what_fits_fits_and_what_does_not_is_told_with_its_place() {
    let (folder, document) = small();
    let key = |name: &str, bytes: &str| json!({"name": name, "bytes": bytes});
    let answer = |data: Value| document.answer("GET", "/eth/v1/keys", 200, Some(&json!({"data": data})));
    assert_eq!(answer(json!([key("a", "0xAb12")])), Verdict::Fits);
    assert!(differs(
        &answer(json!([key("a", "0xAb12"), key("a", "0xAb1")])),
        ".data[1].bytes has not the pattern"
    ));
    assert!(differs(&answer(json!([key("four", "0xAb12")])), ".data[0].name has not the maxLength 3"));
    assert!(differs(&answer(json!([{"name": "a"}])), ".data[0] has no bytes"));
    assert!(differs(
        &answer(json!([{"name": "a", "bytes": "0x0000", "more": 1}])),
        ".data[0].more is not listed"
    ));
    assert!(differs(
        &answer(json!([{"name": "a", "bytes": "0x0000", "kind": "six"}])),
        ".data[0].kind has not the enum"
    ));
    assert!(differs(
        &answer(json!([key("a", "0x0000"), key("b", "0x0000"), key("c", "0x0000")])),
        "maxItems"
    ));
    assert!(differs(&answer(json!("a")), ".data is string, not \"array\""));
    assert!(differs(&document.answer("GET", "/eth/v1/keys", 200, None), "no JSON"));
    assert_eq!(document.answer("GET", "/eth/v1/keys", 204, None), Verdict::Fits);
    assert_eq!(document.answer("GET", "/eth/v1/keys", 500, None), Verdict::UnlistedAnswer);
    assert_eq!(document.answer("PUT", "/eth/v1/keys", 200, None), Verdict::Unlisted);
    assert_eq!(document.answer("GET", "/eth/v1/others", 200, None), Verdict::Unlisted);
    assert!(document.lists("post", "/eth/v1/keys/0x12") && !document.lists("post", "/eth/v1/keys/"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_request_is_held_against_its_query_and_its_body() {
    let (folder, document) = small();
    let ask = |query: &[(&str, &str)]| document.request("GET", "/eth/v1/keys", query, None);
    assert_eq!(ask(&[("slot", "18")]), Verdict::Fits);
    assert_eq!(ask(&[("slot", "18"), ("many", "1,2"), ("unheard", "of")]), Verdict::Fits);
    assert!(differs(&ask(&[]), "no slot"));
    assert!(differs(&ask(&[("slot", "018")]), "slot in the query: the whole has not the pattern"));
    assert!(differs(&ask(&[("slot", "1"), ("many", "1,two")]), "many in the query"));
    let key = json!({"name": "a", "bytes": "0x0000"});
    assert_eq!(document.request("POST", "/eth/v1/keys/1", &[], Some(&key)), Verdict::Fits);
    assert!(differs(&document.request("POST", "/eth/v1/keys/1", &[], None), "no JSON"));
    // The literal path goes before the one in braces, and takes no body.
    assert!(differs(&document.request("POST", "/eth/v1/keys/all", &[], Some(&key)), "none is listed"));
    let one_of = |body: Value| document.answer("POST", "/eth/v1/keys/1", 200, Some(&body));
    assert_eq!((one_of(Value::Null), one_of(json!("abc"))), (Verdict::Fits, Verdict::Fits));
    assert!(differs(&one_of(json!(7)), "none of its kinds"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_example_that_does_not_fit_its_schema_is_found() {
    let (folder, _) = small();
    let root = folder.join("root.yaml");
    let text = std::fs::read_to_string(&root).unwrap();
    std::fs::write(&root, text.replace("maxLength: 3}", "maxLength: 3, example: four}")).unwrap();
    let examples = Document::read(&root).unwrap().examples();
    assert_eq!(examples.len(), 1);
    assert!(examples[0].0.ends_with("root.yaml: \"four\"") && examples[0].1.is_err(), "{examples:?}");
    std::fs::remove_dir_all(folder).unwrap();
}
