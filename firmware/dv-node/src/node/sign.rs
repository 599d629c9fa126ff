//! Where partial signatures come from.

use std::sync::Arc;
use std::time::Instant;

use chain::SignatureBytes;
use duty::{Duty, DutyKind, SignError, Task, TaskId};

use super::{Event, Node};
use crate::obol_network::ObolNetwork;
use crate::signer::Request;

/// Per message: our partial signature, or why not.
pub(super) type Results = Vec<(TaskId, Result<SignatureBytes, SignError>)>;

impl Node {
    /// The one place where partial signatures are asked for. Whoever gives them answers with [`Event::Signed`], one by one
    /// or together.
    pub(super) fn ask_for_signatures(&mut self, duty: Duty, tasks: Vec<Task>) {
        match self.client {
            Some(_) => self.ask_client(duty, &tasks),
            None => self.ask_signer(duty, tasks),
        }
    }

    fn ask_signer(&mut self, duty: Duty, tasks: Vec<Task>) {
        let (tasks, mut results) = match self.hold_until_heard(duty, tasks) {
            Ok(tasks) => self.hold_back(duty, tasks),
            Err(held) => (Vec::new(), held),
        };
        let Some(running) = &self.running else { return };
        let network = running.engine.network();
        let mut requests = Vec::with_capacity(tasks.len());
        for task in tasks {
            match self.request(network, duty, &task) {
                Ok(request) => requests.push(request),
                Err(why) => results.push((task.id, Err(SignError::Withheld(why)))),
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

    /// Leaves out the votes that the signer would have to refuse because of the order in which it is asked.
    fn hold_back(&mut self, duty: Duty, tasks: Vec<Task>) -> (Vec<Task>, Results) {
        let Some(running) = self.running.as_mut().filter(|_| duty.kind == DutyKind::Attester) else {
            return (tasks, Vec::new());
        };
        let target = running.chain.timing.epoch_of(duty.slot);
        let (mut allowed, mut held) = (Vec::with_capacity(tasks.len()), Vec::new());
        for task in tasks {
            match running.first_votes.ask(task.id.validator, target) {
                Ok(()) => allowed.push(task),
                Err(why) => held.push((task.id, Err(why))),
            }
        }
        (allowed, held)
    }

    /// The signer, or a validator client in its place, answered.
    pub(super) fn on_signed(&mut self, duty: Duty, results: Results) {
        if let Some(running) = self.running.as_mut().filter(|_| duty.kind == DutyKind::Attester) {
            let target = running.chain.timing.epoch_of(duty.slot);
            for (id, result) in &results {
                running.first_votes.answered(id.validator, target, result.is_ok());
            }
        }
        self.step(duty::Event::Signed { duty, results });
    }

    fn request(&self, network: &ObolNetwork, duty: Duty, task: &Task) -> Result<Request<TaskId>, String> {
        let keys = self.membership.keys.get(&task.id.validator).ok_or("not a validator of this cluster")?;
        let message = network.sign_request(duty, &task.data).map_err(|error| error.to_string())?;
        let signing_root = network.signing_root(duty, task.message_root);
        Ok(Request { key: task.id, share: keys.own_share, message, signing_root })
    }
}
