/** The operator's page: what runs, what is owed, what went wrong; pushed every two seconds. */
import { useCallMeter, useOps, type OpsOverview } from "../../client";
import { count, moment } from "../format";
import { PageHead } from "../PageHead";
import { sentence } from "../sentences";
import { Chart, type Point } from "./Chart";

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

/** Debits and credits of a unit cancel out, or the books are wrong. */
function TrialBalance({ rows }: { rows: OpsOverview["trialBalance"] }) {
  return (
    <section className="card table-card">
      <h2 id="trial">Trial balance</h2>
      <table aria-labelledby="trial">
        <thead>
          <tr>
            <th scope="col">Accounts</th>
            <th scope="col">Unit</th>
            <th scope="col" className="number">
              Balance
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ kind, unit, balance }) => (
            <tr key={`${kind} ${unit}`}>
              <th scope="row">{kind.replaceAll("_", " ")}</th>
              <td>{unit}</td>
              <td className="number">{count(balance)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function sum<Item>(items: readonly Item[], read: (item: Item) => number): number {
  return items.reduce((total, item) => total + read(item), 0);
}
