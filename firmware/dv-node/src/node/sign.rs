//! Where partial signatures come from.

use std::sync::Arc;
use std::time::Instant;

use duty::{Duty, SignError, Task, TaskId};

use super::{Event, Node};
use crate::obol_network::ObolNetwork;
use crate::signer::Request;

impl Node {
    /// The one place where partial signatures are asked for. Whoever gives them answers with [`Event::Signed`], one by one
    /// or together.
    pub(super) fn ask_for_signatures(&mut self, duty: Duty, tasks: Vec<Task>) {
        match self.client {
            Some(_) => self.ask_client(duty, &tasks),
            None => self.ask_signer(duty, tasks),
        }
    }

    fn ask_signer(&self, duty: Duty, tasks: Vec<Task>) {
        let Some(running) = &self.running else { return };
        let network = running.engine.network();
        let mut requests = Vec::with_capacity(tasks.len());
        let mut results = Vec::new();
        for task in tasks {
            match self.request(network, duty, &task) {
                Ok(request) => requests.push(request),
                Err(why) => results.push((task.id, Err(SignError::Refused(why)))),
            }
        }
        self.expect_messages(requests.iter().map(|request| request.signing_root).collect());
        let (signer, board) = (self.signer.clone(), Arc::clone(&self.board));
        self.spawn(async move {
            let start = Instant::now();
            results.extend(signer.sign(requests).await);
            board.metrics.sign_seconds.0.observe(start.elapsed().as_secs_f64());
            Event::Signed(duty, results)
        });
    }

    fn request(&self, network: &ObolNetwork, duty: Duty, task: &Task) -> Result<Request<TaskId>, String> {
        let keys = self.membership.keys.get(&task.id.validator).ok_or("not a validator of this cluster")?;
        let message = network.sign_request(duty, &task.data).map_err(|error| error.to_string())?;
        let signing_root = network.signing_root(duty, task.message_root);
        Ok(Request { key: task.id, share: keys.own_share, message, signing_root })
    }
}
