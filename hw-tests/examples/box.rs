//! Boots an image by hand and runs commands in its shell: `cargo run -p hw-tests --example box -- IMAGE DIR 'command' …`.
//! Only dev images have a shell. With no command it waits for lines on standard input.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Duration;

use hw_tests::vm::Vm;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(image), Some(dir)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: box IMAGE DIR [COMMAND]…");
    };
    let mut vm = Vm::builder(PathBuf::from(image), PathBuf::from(dir)).start()?;
    let took = vm.wait_ready(Duration::from_secs(900))?;
    eprintln!("up after {:.0} s; console in {}", took.as_secs_f32(), vm.serial_log().display());
    let commands: Vec<String> = arguments.collect();
    let typed = std::io::stdin().lock().lines().map_while(Result::ok);
    let all: Box<dyn Iterator<Item = String>> =
        if commands.is_empty() { Box::new(typed) } else { Box::new(commands.into_iter()) };
    for command in all {
        let output = vm.run(&command)?;
        println!("$ {command}\n{}\n[{}]", output.text, output.status);
    }
    vm.shutdown()?;
    Ok(())
}
