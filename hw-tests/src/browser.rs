//! A box's page in a real browser: what a person would see, read back and kept as a picture.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thirtyfour::prelude::*;

use crate::devnet::wait;
use crate::ports::free_port;
use crate::process::{Launch, POLL, Process, ProcessError};

/// What distributions and makers call the browser that the driver starts.
const CHROMIUM: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
const DRIVER_PATIENCE: Duration = Duration::from_secs(30);
/// How long the page may take to show what is asked for.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);

/// Why the page could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// No browser.
    #[error("Chromium cannot be driven; are the packages chromium and chromium-driver installed?")]
    Driver(#[from] ProcessError),
    /// The driver said no.
    #[error("the browser failed while {doing}")]
    Browser {
        /// What was asked of it.
        doing: &'static str,
        /// Its words.
        #[source]
        source: Box<WebDriverError>,
    },
    /// The page does not show what it should.
    #[error("the page does not show {what}; it says: {text}")]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// The text of the page.
        text: String,
    },
    /// The picture could not be kept.
    #[error("cannot write {path}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What a visitor sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The badge in the corner.
    pub state: String,
    /// The big number.
    pub slot: String,
    /// Rows of the list of members.
    pub members: usize,
    /// Rows of duties that are done.
    pub done: usize,
    /// Texts of the problems shown.
    pub problems: Vec<String>,
}

/// Whether this machine has what [`look`] needs; not every distribution has a package of it.
pub fn is_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    has("chromedriver") && CHROMIUM.iter().any(|name| has(name))
}

/// Opens the page at `address` in headless Chromium, waits until it shows at least one duty done, and reads it. Keeps a
/// picture when `picture` names a file (PNG).
///
/// # Errors
/// When there is no browser or the page does not show it.
pub fn look(address: SocketAddr, size: (u32, u32), picture: Option<&Path>) -> Result<Seen, BrowserError> {
    let dir =
        tempfile::tempdir().map_err(|source| BrowserError::Picture { path: std::env::temp_dir(), source })?;
    let port = free_port();
    let mut driver = Launch::new("chromedriver", "chromedriver", dir.path().join("chromedriver.log"))
        .arg(format!("--port={port}"))
        .start()?;
    wait_for_driver(&mut driver, port)?;
    let profile = dir.path().join("profile");
    let (png, seen) = wait(async move { visit(address, port, size, &profile).await })?;
    driver.stop()?;
    if let Some(path) = picture {
        fs::write(path, png).map_err(|source| BrowserError::Picture { path: path.to_owned(), source })?;
    }
    Ok(seen)
}

/// A browser in an owner's hands: it opens pages, fills in forms and reads what they answer.
pub struct Owner {
    browser: WebDriver,
    downloads: PathBuf,
    // Ends after the browser was asked to.
    _driver: Process,
    _dir: tempfile::TempDir,
}

impl Owner {
    /// Starts the browser.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(size: (u32, u32)) -> Result<Self, BrowserError> {
        let dir = tempfile::tempdir()
            .map_err(|source| BrowserError::Picture { path: std::env::temp_dir(), source })?;
        let port = free_port();
        let mut driver = Launch::new("chromedriver", "chromedriver", dir.path().join("chromedriver.log"))
            .arg(format!("--port={port}"))
            .start()?;
        wait_for_driver(&mut driver, port)?;
        let profile = dir.path().join("profile");
        let downloads = dir.path().join("downloads");
        fs::create_dir(&downloads)
            .map_err(|source| BrowserError::Picture { path: downloads.clone(), source })?;
        let browser = wait(async move { start(port, size, &profile).await })?;
        Ok(Self { browser, downloads, _driver: driver, _dir: dir })
    }

    /// Where the browser saves what a page gives.
    pub fn downloads(&self) -> &Path {
        &self.downloads
    }

    /// Opens a box's page and unfolds everything on it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self, address: SocketAddr) -> Result<(), BrowserError> {
        let browser = self.browser.clone();
        wait(async move {
            browser.goto(format!("https://{address}/")).await.map_err(failed("opening the page"))?;
            let unfold = "document.querySelectorAll('details').forEach((part) => { part.open = true; });";
            browser.execute(unfold, Vec::new()).await.map_err(failed("unfolding the page")).map(drop)
        })
    }

    /// Types into a field in place of what is in it, or names a file or folder to a field that takes one.
    ///
    /// # Errors
    /// When there is no such field.
    pub fn fill(&self, field: &str, text: &str) -> Result<(), BrowserError> {
        let (browser, field, text) = (self.browser.clone(), format!("#{field}"), text.to_owned());
        wait(async move {
            let filling = || failed("filling in a form");
            let element = browser.find(By::Css(field)).await.map_err(filling())?;
            if element.attr("type").await.map_err(filling())?.as_deref() != Some("file") {
                element.clear().await.map_err(filling())?;
            }
            element.send_keys(text).await.map_err(filling())
        })
    }

    /// Clicks on what this names.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn click(&self, selector: &str) -> Result<(), BrowserError> {
        let (browser, selector) = (self.browser.clone(), selector.to_owned());
        wait(async move {
            let element = browser.find(By::Css(selector)).await.map_err(failed("looking for a button"))?;
            element.click().await.map_err(failed("clicking"))
        })
    }

    /// Waits until a part of the page says something that has these words in it, and gives all of it.
    ///
    /// # Errors
    /// When it does not say that in a minute.
    pub fn reads(&self, part: &str, words: &str) -> Result<String, BrowserError> {
        let (browser, part, words) = (self.browser.clone(), format!("#{part}"), words.to_owned());
        wait(async move {
            let deadline = Instant::now() + PAGE_PATIENCE;
            loop {
                let said = text(&browser, &part).await?;
                if said.contains(&words) {
                    return Ok(said);
                }
                if Instant::now() > deadline {
                    return Err(BrowserError::Missing { what: "the words that were waited for", text: said });
                }
                tokio::time::sleep(POLL * 4).await;
            }
        })
    }

    /// Keeps a picture of the whole part of the page that this names (PNG).
    ///
    /// # Errors
    /// When there is no such part, or no place for the picture.
    pub fn picture(&self, selector: &str, path: &Path) -> Result<(), BrowserError> {
        let (browser, selector) = (self.browser.clone(), selector.to_owned());
        let png = wait(async move {
            let element = browser.find(By::Css(selector)).await.map_err(failed("looking for a picture"))?;
            element.screenshot_as_png().await.map_err(failed("taking a picture"))
        })?;
        fs::write(path, png).map_err(|source| BrowserError::Picture { path: path.to_owned(), source })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let browser = self.browser.clone();
        let _ = wait(async move { browser.quit().await });
    }
}

fn wait_for_driver(driver: &mut Process, port: u16) -> Result<(), BrowserError> {
    let deadline = Instant::now() + DRIVER_PATIENCE;
    while std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_err()
        && Instant::now() < deadline
    {
        driver.check_alive()?;
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn failed(doing: &'static str) -> impl FnOnce(WebDriverError) -> BrowserError {
    move |source| BrowserError::Browser { doing, source: Box::new(source) }
}

async fn visit(
    address: SocketAddr,
    port: u16,
    (width, height): (u32, u32),
    profile: &Path,
) -> Result<(Vec<u8>, Seen), BrowserError> {
    let browser = start(port, (width, height), profile).await?;
    let result = read(&browser, address).await;
    let _ = browser.quit().await;
    result
}

async fn start(port: u16, (width, height): (u32, u32), profile: &Path) -> Result<WebDriver, BrowserError> {
    let setting = failed("being set up");
    let capabilities = (|| {
        let mut capabilities = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--window-size={width},{height}"),
            &format!("--user-data-dir={}", profile.display()),
        ] {
            capabilities.add_arg(argument)?;
        }
        let downloads = profile.with_file_name("downloads");
        let saving = serde_json::json!({"download.default_directory": downloads, "download.prompt_for_download": false});
        capabilities.add_experimental_option("prefs", saving)?;
        // The box's own certificate, which no authority signed.
        capabilities.accept_insecure_certs(true)?;
        Ok(capabilities)
    })()
    .map_err(setting)?;
    WebDriver::new(format!("http://127.0.0.1:{port}"), capabilities).await.map_err(failed("starting"))
}

async fn read(browser: &WebDriver, address: SocketAddr) -> Result<(Vec<u8>, Seen), BrowserError> {
    browser.goto(format!("https://{address}/")).await.map_err(failed("opening the page"))?;
    let deadline = Instant::now() + PAGE_PATIENCE;
    let done = By::Css("#duties tbody tr[data-outcome=done]");
    loop {
        let rows = browser.find_all(done.clone()).await.map_err(failed("reading the duties"))?;
        if !rows.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            let text = text(browser, "body").await?.chars().take(600).collect();
            return Err(BrowserError::Missing { what: "any duty that is done", text });
        }
        tokio::time::sleep(POLL * 8).await;
    }
    let problems =
        browser.find_all(By::Css("#problems .problem")).await.map_err(failed("reading the problems"))?;
    let mut problem_texts = Vec::new();
    for problem in problems {
        problem_texts.push(problem.text().await.map_err(failed("reading a problem"))?);
    }
    let seen = Seen {
        state: text(browser, "#state").await?,
        slot: text(browser, "#slot").await?,
        members: browser.find_all(By::Css("#members li")).await.map_err(failed("reading the members"))?.len(),
        done: browser.find_all(done).await.map_err(failed("reading the duties"))?.len(),
        problems: problem_texts,
    };
    let png = browser.screenshot_as_png().await.map_err(failed("taking a picture"))?;
    Ok((png, seen))
}

async fn text(browser: &WebDriver, selector: &str) -> Result<String, BrowserError> {
    let element = browser.find(By::Css(selector)).await.map_err(failed("reading the page"))?;
    element.text().await.map_err(failed("reading the page"))
}
