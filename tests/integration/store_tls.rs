//! A store behind TLS (`rediss://`), whose certificate must be trusted.

use serde_json::Value;

use crate::support::keeping::Keeping;
use crate::support::proxy::Proxy;
use crate::support::redis::{Server, free_port};
use crate::support::tls::Certificates;

#[tokio::test]
#[ignore = "needs redis-server"]
async fn records_go_to_a_store_whose_certificate_is_trusted_and_to_no_other() {
    let certificates = Certificates::new();
    let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let port = free_port().to_string();
    let redis = Server::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file(&certificates.certificate),
        "--tls-key-file",
        &file(&certificates.key),
        "--tls-ca-cert-file",
        &file(&certificates.authority),
        "--tls-auth-clients",
        "no",
    ]);
    let keys = redis.dir.path().join("keys");
    std::fs::write(&keys, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    let keys = file(&keys);
    let server = Keeping::start(None).await;
    let url = format!("rediss://localhost:{port}/0");
    let env = [("REJOINDER_STORE__URL", url.as_str()), ("REJOINDER_KEYS_FILE", &keys)];
    let start = async |trust: &Certificates| {
        Proxy::start(server.address, &[env[0], env[1], trust.trust()], true).await
    };
    let (proxy, replica) = (start(&certificates).await, start(&certificates).await);
    let answer = proxy.post(r#"{"model":"m","input":"hi","store":true}"#).send().await.unwrap();
    let made: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let id = made["id"].as_str().unwrap();
    let get = async |proxy: &Proxy| {
        let answer = reqwest::get(format!("{}/v1/responses/{id}", proxy.base)).await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap())
    };
    let (status, found) = get(&replica).await;
    assert_eq!((status, &found["output"]), (200, &made["output"]));
    let suspicious = start(&Certificates::new()).await;
    let (status, error) = get(&suspicious).await;
    assert_eq!(
        (status, &error["error"]["type"]),
        (503, &Value::from("service_unavailable_error")),
        "{error}"
    );
}
