/** The operator's page: what runs, what is owed, what went wrong; pushed every two seconds. */
import { useCallMeter, useOps, type OpsOverview } from "../../client";
import { count, moment } from "../format";
import { PageHead } from "../PageHead";
import { sentence } from "../sentences";
import { Chart, type Point } from "./Chart";

type KindBalance = OpsOverview["trialBalance"][number];
type Unit = KindBalance["unit"];

export default function Ops() {
  const { session } = useCallMeter();
  return session.role === "admin" ? (
    <Overview />
  ) : (
    <div className="page">
      <PageHead title="Operations" />
      <p className="card empty quiet">This page is for operators.</p>
    </div>
  );
}

function Overview() {
  const { latest, samples, error } = useOps();
  const points = (read: (overview: OpsOverview) => number): Point[] =>
    samples.map((overview) => ({ at: overview.at, value: read(overview) }));

  return (
    <div className="page wide-page">
      <PageHead title="Operations">
        {latest && (
          <p className="quiet" data-testid="ops-at">
            as of <time dateTime={latest.at}>{moment(latest.at)}</time>
          </p>
        )}
      </PageHead>
      {error !== undefined && error !== null && (
        <p className="card problem" role="alert">
          {sentence(error)}
        </p>
      )}
      <div className="tiles">
        <Tile label="Ringing" value={latest?.calls.ringing} />
        <Tile label="Pending purchases" value={latest?.purchases.pending} />
        <Tile label="Failed jobs" value={latest?.jobs.failed} alarming />
        <Tile label="CSP reports, last hour" value={latest?.cspReports.lastHour} alarming />
      </div>
      <div className="charts">
        <Chart title="Calls in progress" unit="active" points={points(({ calls }) => calls.active)} />
        <Chart title="Debits" unit="per second" decimals={1} points={points(({ meter }) => meter.debitsPerSecond)} />
        <Chart title="Meter lag" unit="seconds late" decimals={2} points={points(({ meter }) => meter.dueLagSeconds)} />
        <Chart
          title="Connected tabs"
          unit="tabs"
          points={points(({ instances }) => sum(instances, ({ tabs }) => tabs))}
        />
      </div>
      {latest && (
        <div className="tables">
          <Instances instances={latest.instances} />
          <TrialBalance rows={latest.trialBalance} />
        </div>
      )}
    </div>
  );
}

function Tile({ label, value, alarming = false }: { label: string; value: number | undefined; alarming?: boolean }) {
  const alarm = alarming && value !== undefined && value > 0;
  return (
    <div className={alarm ? "tile card alarm" : "tile card"}>
      <span className="figure">{value === undefined ? "–" : count(value)}</span>
      <span className="quiet">{label}</span>
    </div>
  );
}

function Instances({ instances }: { instances: OpsOverview["instances"] }) {
  return (
    <section className="card table-card">
      <h2 id="instances">Instances</h2>
      <table aria-labelledby="instances">
        <thead>
          <tr>
            <th scope="col">Instance</th>
            <th scope="col" className="number">
              Tabs
            </th>
            <th scope="col" className="number">
              Users
            </th>
          </tr>
        </thead>
        <tbody>
          {instances.map(({ id, tabs, users }) => (
            <tr key={id}>
              <th scope="row">{id}</th>
              <td className="number">{count(tabs)}</td>
              <td className="number">{count(users)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const units: Record<Unit, string> = { TOKEN: "Tokens", USD_CENT: "US cents" };

/** Debits and credits of a unit come to the same, or the books are wrong. */
function TrialBalance({ rows }: { rows: readonly KindBalance[] }) {
  return (
    <section className="card table-card">
      <h2 id="trial">Trial balance</h2>
      <table aria-labelledby="trial">
        <thead>
          <tr>
            <th scope="col">Accounts</th>
            <th scope="col" className="number">
              Debit
            </th>
            <th scope="col" className="number">
              Credit
            </th>
          </tr>
        </thead>
        {[...Map.groupBy(rows, (row) => row.unit)].map(([unit, kinds]) => (
          <Books key={unit} unit={unit} rows={kinds} />
        ))}
      </table>
    </section>
  );
}

function Books({ unit, rows }: { unit: Unit; rows: readonly KindBalance[] }) {
  const debits = sum(rows, debitOf);
  const credits = sum(rows, creditOf);
  return (
    <tbody>
      <tr>
        <th scope="rowgroup" colSpan={3} className="quiet small">
          {units[unit]}
        </th>
      </tr>
      {rows.map((row) => (
        <tr key={row.kind}>
          <th scope="row">{row.kind.replaceAll("_", " ")}</th>
          <td className="number">{row.side === "debit" && count(row.balance)}</td>
          <td className="number">{row.side === "credit" && count(row.balance)}</td>
        </tr>
      ))}
      <tr className="total">
        <th scope="row">Total</th>
        <td className="number">{count(debits)}</td>
        <td className="number">{count(credits)}</td>
      </tr>
      {debits !== credits && (
        <tr>
          <td colSpan={3} className="problem" role="alert">
            The books don’t balance: {count(Math.abs(debits - credits))} apart.
          </td>
        </tr>
      )}
    </tbody>
  );
}

function debitOf({ side, balance }: KindBalance): number {
  return side === "debit" ? balance : 0;
}

function creditOf({ side, balance }: KindBalance): number {
  return side === "credit" ? balance : 0;
}

function sum<Item>(items: readonly Item[], read: (item: Item) => number): number {
  return items.reduce((total, item) => total + read(item), 0);
}
