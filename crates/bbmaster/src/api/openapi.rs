//! The OpenAPI document, made from the table of routes and the types of the bodies.

use protocol::rest::Problem;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::access::Access;
use super::route::{Route, RouteDoc};
use super::signature::Header;

/// Filters are text without NUL.
const QUERY_TEXT: &str = r"^[^\u0000]*$";

/// Schemas of requests and of answers. They differ in the fields that are required, so each kind
/// has its own definitions.
struct Schemas {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
}

const ANSWERS: &str = "/components/schemas";
/// Replaced by the definitions above when everything is generated.
const REQUESTS: &str = "/components/requests";

impl Schemas {
    fn new() -> Self {
        let settings = |path: &str| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = path.to_owned().into();
                settings.meta_schema = None;
            })
        };
        Self {
            answers: settings(ANSWERS).for_serialize().into_generator(),
            requests: settings(REQUESTS).for_deserialize().into_generator(),
        }
    }
}

/// OpenAPI 3.1, whose schemas are JSON Schema 2020-12.
pub fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let problem = json!({
        "description": "The error, as a problem document (RFC 9457)",
        "content": { "application/problem+json": { "schema": schemas.answers.subschema_for::<Problem>() } },
    });
    let mut paths = Map::new();
    for route in routes {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    let mut definitions = schemas.answers.take_definitions(true);
    for (name, schema) in schemas.requests.take_definitions(true) {
        definitions.insert(format!("{name}Request"), schema);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Backbone master",
            "description":
                "Stores the desired state of a fleet, sends it to the hosts and shows their statuses. Every path \
                 works with and without a trailing slash.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": { "Problem": problem },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "enrollToken": { "type": "http", "scheme": "bearer" },
            },
        },
    });
    name_requests(&mut document);
    document
}

/// Turns `#/components/requests/X` into `#/components/schemas/XRequest`.
fn name_requests(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix(&format!("#{REQUESTS}/")) {
                            *target = format!("#{ANSWERS}/{name}Request");
                        }
                    }
                    value => name_requests(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(name_requests),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let doc = &route.doc;
    let mut responses = Map::new();
    for answer in &doc.described.answers {
        let status = answer.status.as_u16();
        let response = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": text_of(doc, status) }));
        if !answer.media_type.is_empty() {
            let schema = answer.schema.map(|schema| schema(&mut schemas.answers));
            let content = schema.map_or_else(|| json!({}), |schema| json!({ "schema": schema }));
            response["content"][answer.media_type] = content;
        }
    }
    for status in problems(route) {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "$ref": "#/components/responses/Problem" }));
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": doc.summary,
        "parameters": parameters(route, &mut schemas.requests),
        "responses": responses,
    });
    operation["security"] = match route.access {
        Access::Open => json!([]),
        Access::Needs(role) => {
            operation["description"] = format!("Requires the role {}.", role.as_str()).into();
            // Or without a token, on a loopback address (`[bbmaster] allow_anonymous`).
            json!([{ "token": [] }, {}])
        }
        Access::NeedsEnrollToken => json!([{ "enrollToken": [] }]),
    };
    if let Some(body) = doc.described.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(&mut schemas.requests) } },
        });
    }
    operation
}

fn text_of(doc: &RouteDoc, status: u16) -> &'static str {
    let text = doc.texts.iter().find(|(of, _)| *of == status);
    text.map_or("", |(_, text)| text)
}

fn problems(route: &Route) -> Vec<u16> {
    let mut problems = route.doc.described.problems.clone();
    if route.access != Access::Open {
        // 503: there is no connection to the database or the broker.
        problems.extend([401, 403, 503]);
    }
    problems
}

fn parameters(route: &Route, requests: &mut SchemaGenerator) -> Vec<Value> {
    let described = &route.doc.described;
    let mut parameters = Vec::new();
    for (name, schema) in route.parameters().zip(described.path) {
        let schema = schema(requests).to_value();
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    if let Some(query) = described.query {
        let mut schema = query(requests).to_value();
        let properties = schema["properties"].take();
        for (name, schema) in properties.as_object().into_iter().flatten() {
            parameters.push(query_parameter(name, schema.clone()));
        }
    }
    for Header {
        name,
        description,
        pattern,
    } in &described.headers
    {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string", "pattern": pattern },
        }));
    }
    parameters
}

fn query_parameter(name: &str, mut schema: Value) -> Value {
    let mut parameter = json!({ "name": name, "in": "query", "required": false });
    if let Some(members) = schema.as_object_mut() {
        members.remove("default");
        if let Some(description) = members.remove("description") {
            parameter["description"] = description;
        }
        take_out_null(members);
        if members.get("type").is_some_and(|kind| kind == "string") && members.len() == 1 {
            members.insert("pattern".to_owned(), QUERY_TEXT.into());
        }
    }
    parameter["schema"] = schema;
    parameter
}

/// A query has no null: a parameter is given or left out.
fn take_out_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [Value::Object(only)] = choices.as_slice() {
            *schema = only.clone();
        }
    }
}

/// For example `get_v1_hosts_id_apps`.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for part in route.path.split(|c: char| !c.is_ascii_alphanumeric()) {
        if !part.is_empty() {
            id.push('_');
            id.push_str(part);
        }
    }
    id
}
