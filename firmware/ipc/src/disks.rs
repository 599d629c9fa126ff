//! What the box's disks say about themselves: `smartctl --json` reports, read and judged (decision 0312).
//!
//! Pure: bytes in, facts and sentences out. `disk-health@.service` writes the reports, the owner's page reads them. A report is
//! outside input all the same: it is what a disk's own firmware answered.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::Problem;

/// A report is a few thousand bytes; more is not read.
pub const MAX_REPORT: usize = 256 * 1024;
/// The longest name that is shown; a disk chooses its own.
const MAX_NAME: usize = 64;
/// From this share of its planned life on, in percent, a disk should be exchanged.
const WORN_PERCENT: u64 = 90;
/// Degrees Celsius above which disks slow down, and age.
const HOT: i64 = 75;

/// What one disk says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHealth {
    /// Its maker's name for it, made printable; the kernel's when it has none.
    pub name: String,
    /// Whether it says of itself that it works; none when it does not answer such questions.
    pub passed: Option<bool>,
    /// How much of its planned life is used, in percent; may exceed 100.
    pub used_percent: Option<u64>,
    /// Degrees Celsius.
    pub celsius: Option<i64>,
    /// Places or reads that it could not give back.
    pub lost: u64,
    /// Whether it has gone over to reading alone.
    pub read_only: bool,
    /// Whether the places it keeps in reserve run out.
    pub no_spare: bool,
}

/// Why a report says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Longer than any report.
    #[error("the report has {0} bytes")]
    Long(usize),
    /// Not what smartctl writes.
    #[error("the report is no report: {0}")]
    Odd(String),
}

/// The parts of a report that are looked at (smartctl(8), `--json`, format 1.0).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    device: Device,
    model_name: Option<String>,
    smart_status: Option<Status>,
    temperature: Option<Temperature>,
    nvme_smart_health_information_log: Option<Nvme>,
    ata_smart_attributes: Option<Attributes>,
    endurance_used: Option<Endurance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Device {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Status {
    passed: bool,
}

#[derive(Debug, Deserialize)]
struct Temperature {
    current: Option<Number>,
}

#[derive(Debug, Deserialize)]
struct Endurance {
    current_percent: Option<Number>,
}

/// NVM Express Base Specification 2.0, figure 207.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Nvme {
    critical_warning: Option<Number>,
    percentage_used: Option<Number>,
    media_errors: Option<Number>,
}

#[derive(Debug, Deserialize)]
struct Attributes {
    #[serde(default)]
    table: Vec<Attribute>,
}

#[derive(Debug, Deserialize)]
struct Attribute {
    id: u64,
    raw: Raw,
}

#[derive(Debug, Deserialize)]
struct Raw {
    value: Number,
}

/// A count of a disk's own. NVMe counts in 128 bits, and one odd number must not hide the rest of the report: what is more than fits is
/// the most that fits, what is no count is none.
fn count(number: Option<&Number>) -> Option<u64> {
    let number = number?;
    let too_large = number.as_u64().is_none() && number.as_f64().is_some_and(|value| value >= 1e19);
    number.as_u64().or(too_large.then_some(u64::MAX))
}

/// Reads one report. A disk that smartctl cannot ask is one that says nothing, which is no error.
///
/// # Errors
/// When the bytes are no report.
pub fn read(report: &[u8]) -> Result<DiskHealth, ReportError> {
    if report.len() > MAX_REPORT {
        return Err(ReportError::Long(report.len()));
    }
    let report: Report =
        serde_json::from_slice(report).map_err(|error| ReportError::Odd(error.to_string()))?;
    let nvme = report.nvme_smart_health_information_log;
    let of_nvme =
        |field: fn(&Nvme) -> &Option<Number>| count(nvme.as_ref().and_then(|log| field(log).as_ref()));
    let warning = of_nvme(|log| &log.critical_warning).unwrap_or(0);
    // ATA: sectors that wait to be given up (197), and such that no reading brought back (198).
    let lost_by_ata = report
        .ata_smart_attributes
        .iter()
        .flat_map(|attributes| &attributes.table)
        .filter(|attribute| [197, 198].contains(&attribute.id))
        .filter_map(|attribute| count(Some(&attribute.raw.value)))
        .max();
    let name = report.model_name.filter(|name| !name.trim().is_empty()).unwrap_or(report.device.name);
    let endurance = report.endurance_used.and_then(|endurance| count(endurance.current_percent.as_ref()));
    Ok(DiskHealth {
        name: printable(&name),
        passed: report.smart_status.map(|status| status.passed),
        used_percent: of_nvme(|log| &log.percentage_used).or(endurance),
        celsius: report.temperature.and_then(|temperature| temperature.current?.as_i64()),
        lost: of_nvme(|log| &log.media_errors).or(lost_by_ata).unwrap_or(0),
        no_spare: warning & 1 != 0,
        read_only: warning & 8 != 0,
    })
}

fn printable(name: &str) -> String {
    let shown: String = name.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_NAME).collect();
    if shown.trim().is_empty() { "without a name".to_owned() } else { shown.trim().to_owned() }
}

/// What the owner must know about a disk, the worst alone.
pub fn judge(disk: &DiskHealth) -> Option<Problem> {
    let name = &disk.name;
    let (code, message, next_step) = if disk.passed == Some(false) || disk.read_only {
        (
            "disk_failing",
            format!("The disk {name} says of itself that it is failing."),
            "Replace the box's disk before it stops. Never start a box from a copy of the old disk: an old signing history can cost the stake.",
        )
    } else if disk.no_spare || disk.used_percent.is_some_and(|used| used >= WORN_PERCENT) {
        let used =
            disk.used_percent.map(|used| format!(" ({used} % of its planned life)")).unwrap_or_default();
        (
            "disk_worn",
            format!("The disk {name} is nearly worn out{used}."),
            "Plan to replace it in the next weeks. Never start a box from a copy of the old disk.",
        )
    } else if disk.lost > 0 {
        (
            "disk_errors",
            format!("The disk {name} could not give back what was written in {} places.", disk.lost),
            "One place may be chance. If the number grows, replace the disk.",
        )
    } else if disk.celsius.is_some_and(|celsius| celsius > HOT) {
        (
            "disk_hot",
            format!("The disk {name} is at {} °C.", disk.celsius.unwrap_or_default()),
            "Give the box more air: a disk that is too hot becomes slow and ages.",
        )
    } else {
        return None;
    };
    Some(Problem::new(code, message, next_step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVME: &str = r#"{"json_format_version":[1,0],"smartctl":{"version":[7,4],"exit_status":0},
        "device":{"name":"/dev/nvme0n1","info_name":"/dev/nvme0n1","type":"nvme","protocol":"NVMe"},
        "model_name":"Samsung SSD 980 1TB","serial_number":"S64","smart_status":{"passed":true,"nvme":{"value":0}},
        "nvme_smart_health_information_log":{"critical_warning":0,"temperature":41,"available_spare":100,
        "available_spare_threshold":10,"percentage_used":3,"media_errors":0},"temperature":{"current":41}}"#;
    const ATA: &str = r#"{"device":{"name":"/dev/sda","type":"sat","protocol":"ATA"},"model_name":"CT500MX500SSD1",
        "smart_status":{"passed":true},"ata_smart_attributes":{"revision":1,"table":[
        {"id":5,"name":"Reallocate_NAND_Blk_Cnt","value":100,"worst":100,"thresh":10,"raw":{"value":7,"string":"7"}},
        {"id":197,"name":"Current_Pending_ECC_Cnt","value":100,"worst":100,"thresh":0,"raw":{"value":2,"string":"2"}}]},
        "temperature":{"current":33},"endurance_used":{"current_percent":12}}"#;
    /// What smartctl says about a virtual disk.
    const SILENT: &str = r#"{"smartctl":{"messages":[{"string":"/dev/vda: Unable to detect device type","severity":"error"}],
        "exit_status":1},"device":{"name":"/dev/vda"}}"#;

    fn code(disk: &DiskHealth) -> Option<String> {
        judge(disk).map(|problem| problem.code)
    }

    #[test]
    fn a_healthy_disk_is_no_problem() {
        let disk = read(NVME.as_bytes()).unwrap();
        assert_eq!((disk.name.as_str(), disk.passed), ("Samsung SSD 980 1TB", Some(true)));
        assert_eq!((disk.used_percent, disk.celsius, disk.lost), (Some(3), Some(41), 0));
        assert_eq!(judge(&disk), None);
    }

    #[test]
    fn what_a_disk_admits_is_told() {
        for (from, to, expected) in [
            (r#""passed":true"#, r#""passed":false"#, "disk_failing"),
            (r#""critical_warning":0"#, r#""critical_warning":8"#, "disk_failing"),
            (r#""critical_warning":0"#, r#""critical_warning":1"#, "disk_worn"),
            (r#""percentage_used":3"#, r#""percentage_used":101"#, "disk_worn"),
            (r#""media_errors":0"#, r#""media_errors":4"#, "disk_errors"),
            (r#""current":41"#, r#""current":80"#, "disk_hot"),
        ] {
            let report = NVME.replace(from, to);
            assert_ne!(report, NVME);
            assert_eq!(code(&read(report.as_bytes()).unwrap()).as_deref(), Some(expected), "{to}");
        }
    }

    #[test]
    fn a_number_beyond_all_bounds_hides_nothing_else() {
        let most = u128::MAX.to_string();
        let report = NVME
            .replace(r#""media_errors":0"#, &format!(r#""media_errors":{most}"#))
            .replace(r#""passed":true"#, r#""passed":false"#);
        let disk = read(report.as_bytes()).unwrap();
        assert_eq!((disk.lost, disk.passed), (u64::MAX, Some(false)));
        assert_eq!(code(&disk).as_deref(), Some("disk_failing"));
        let report = NVME.replace(r#""percentage_used":3"#, &format!(r#""percentage_used":{most}"#));
        assert_eq!(read(report.as_bytes()).unwrap().used_percent, Some(u64::MAX));
        let report = ATA.replace(r#""value":2,"#, r#""value":-1,"#);
        assert_eq!(read(report.as_bytes()).unwrap().lost, 0);
        let report = ATA.replace(r#""current":33"#, r#""current":99999999999999999999"#);
        assert_eq!(read(report.as_bytes()).unwrap().celsius, None);
    }

    #[test]
    fn sectors_that_wait_to_be_given_up_are_lost_places() {
        let disk = read(ATA.as_bytes()).unwrap();
        assert_eq!((disk.lost, disk.used_percent), (2, Some(12)));
        assert_eq!(code(&disk).as_deref(), Some("disk_errors"));
        let replaced = read(ATA.replace(r#""value":2,"#, r#""value":0,"#).as_bytes()).unwrap();
        assert_eq!(judge(&replaced), None, "sectors that were replaced in time are no loss");
    }

    #[test]
    fn a_disk_that_says_nothing_is_shown_and_no_problem() {
        let disk = read(SILENT.as_bytes()).unwrap();
        assert_eq!((disk.name.as_str(), disk.passed), ("/dev/vda", None));
        assert_eq!(judge(&disk), None);
        assert_eq!(read(b"{}").unwrap().name, "without a name");
    }

    #[test]
    fn bytes_that_are_no_report_are_refused() {
        for odd in [&b""[..], b"7", b"{", br#"{"smart_status":{"passed":"yes"}}"#, br#"{"temperature":7}"#] {
            assert!(matches!(read(odd), Err(ReportError::Odd(_))), "{odd:?}");
        }
        assert_eq!(read(&vec![b' '; MAX_REPORT + 1]), Err(ReportError::Long(MAX_REPORT + 1)));
        let named = NVME.replace("Samsung SSD 980 1TB", &format!("<b>\\u0007ü{}", "x".repeat(200)));
        let name = read(named.as_bytes()).unwrap().name;
        assert!(name.starts_with("<b>x") && name.len() == MAX_NAME, "{name}");
    }
}
